//! Packs a page's code for browsers, serves the page on this machine alone, starts a browser on it, and prints what the page
//! posts, line by line. Ends when the page says that it is done, or with an error.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Parser;
use tiny_http::{Header, Method, Request, Response, Server};
use wasm_bindgen_cli_support::Bindgen;

/// Shows a page to a browser and prints what it posts
#[derive(Parser)]
struct Options {
    /// The page's compiled code
    #[arg(long)]
    wasm: PathBuf,
    /// The page that loads it
    #[arg(long)]
    page: PathBuf,
    /// A folder for what is served; made anew
    #[arg(long)]
    served: PathBuf,
    /// Only cases with this in their names; several times for several
    #[arg(long)]
    only: Vec<String>,
    /// So long may the page be silent, in seconds
    #[arg(long, default_value_t = 600)]
    patience: u64,
    /// The browser and its arguments; the page's address follows them
    #[arg(last = true, required = true)]
    browser: Vec<String>,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    pack(&options)?;
    // A port that is free; nobody but this machine reaches it.
    let server = Server::http("127.0.0.1:0")
        .map_err(|error| anyhow!("{error}"))
        .context("serving on 127.0.0.1")?;
    let address = server.server_addr().to_ip().context("a server without an address")?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(options.only.iter().map(|text| ("only", text)));
    let address = format!("http://{address}/?{}", query.finish());
    let mut browser = Browser::start(&options.browser, &address)?;
    let patience = Duration::from_secs(options.patience);
    let mut heard = Instant::now();
    loop {
        let Some(mut request) = server.recv_timeout(Duration::from_secs(1))? else {
            browser.ensure_alive()?;
            ensure!(heard.elapsed() < patience, "the page is silent for {patience:?}");
            continue;
        };
        heard = Instant::now();
        if *request.method() != Method::Post {
            answer(request, &options.served)?;
            continue;
        }
        let path = request.url().to_owned();
        let mut text = String::new();
        request.as_reader().read_to_string(&mut text).context("reading what the page posted")?;
        request.respond(Response::empty(204))?;
        match path.as_str() {
            "/line" => writeln!(std::io::stdout(), "{text}")?,
            "/done" => return Ok(ExitCode::SUCCESS),
            _ => bail!("the page broke off: {text}"),
        }
    }
}

/// Splits the code into what browsers load: a module of JavaScript and one of WebAssembly.
fn pack(options: &Options) -> Result<()> {
    let folder = &options.served;
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let mut bindgen = Bindgen::new();
    bindgen.input_path(&options.wasm).out_name("page").typescript(false).web(true)?;
    bindgen.generate(folder).with_context(|| format!("packing {}", options.wasm.display()))?;
    fs::copy(&options.page, folder.join("index.html"))
        .with_context(|| format!("copying {}", options.page.display()))?;
    Ok(())
}

/// Gives a file of the folder, by its name alone.
fn answer(request: Request, folder: &Path) -> Result<()> {
    let (path, _) = request.url().split_once('?').unwrap_or((request.url(), ""));
    let (name, kind) = match path {
        "/" => ("index.html", "text/html; charset=utf-8"),
        "/page.js" => ("page.js", "text/javascript; charset=utf-8"),
        "/page_bg.wasm" => ("page_bg.wasm", "application/wasm"),
        _ => return Ok(request.respond(Response::empty(404))?),
    };
    let path = folder.join(name);
    let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let header = Header::from_bytes("Content-Type", kind)
        .map_err(|()| anyhow!("{kind} is no header's value"))?;
    Ok(request.respond(Response::from_data(bytes).with_header(header))?)
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
