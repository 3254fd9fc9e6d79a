//! Shows the page to a browser, and prints what it posts. Ends when the page says that it is done, or with an error.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::serve::{Post, Server};

/// Runs the page's checks.
pub(crate) fn show(
    site: &Path,
    only: &[String],
    patience: Duration,
    browser: &[String],
) -> Result<()> {
    let server = Server::start(0)?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("post", "lines");
    query.extend_pairs(only.iter().map(|text| ("only", text)));
    let address = format!("{}?{}#/gpu", server.address, query.finish());
    let (sender, posts) = mpsc::channel();
    let site = site.to_owned();
    thread::spawn(move || server.run(&site, Some(&sender)));
    let mut browser = Browser::start(browser, &address)?;
    let mut heard = Instant::now();
    loop {
        let Ok(Post { path, text }) = posts.recv_timeout(Duration::from_secs(1)) else {
            browser.ensure_alive()?;
            ensure!(heard.elapsed() < patience, "the page is silent for {patience:?}");
            continue;
        };
        heard = Instant::now();
        match path.as_str() {
            "/line" => writeln!(std::io::stdout(), "{text}")?,
            "/done" => return Ok(()),
            _ => bail!("the page broke off: {text}"),
        }
    }
}

/// A running browser, which ends with this value.
struct Browser(Child);

impl Browser {
    fn start(command: &[String], address: &str) -> Result<Self> {
        let (program, arguments) = command.split_first().context("no browser was named")?;
        let child = Command::new(program)
            .args(arguments)
            .arg(address)
            .stdin(Stdio::null())
            // Results alone go to standard output.
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        Ok(Self(child))
    }

    fn ensure_alive(&mut self) -> Result<()> {
        match self.0.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the browser ended before the page was done: {status}"),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
