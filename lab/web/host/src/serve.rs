//! Serves the site's files on the loopback address, and hands on what the page posts. A thread and a connection for each request:
//! a server whose threads wait for idle connections leaves a browser waiting that opens several at once.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

/// So long may a request's line and headers be, and what is posted.
const MOST_HEAD: u64 = 64 << 10;
const MOST_BODY: u64 = 16 << 20;
/// So long may a connection say nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the page posted: where to, and the text.
pub(crate) struct Post {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A server that nobody but this machine reaches.
pub(crate) struct Server {
    listener: TcpListener,
    pub(crate) address: String,
}

impl Server {
    /// At this port, or at any that is free if it is 0.
    pub(crate) fn start(port: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))
            .with_context(|| format!("serving on 127.0.0.1:{port}"))?;
        let address = format!("http://{}/", listener.local_addr()?);
        Ok(Self { listener, address })
    }

    /// Answers requests as long as the program runs.
    pub(crate) fn run(&self, site: &Path, posted: Option<&Sender<Post>>) {
        for stream in self.listener.incoming().flatten() {
            let (site, posted) = (site.to_owned(), posted.cloned());
            thread::spawn(move || {
                // A browser may close a connection at any time.
                let _ = answer(&stream, &site, posted.as_ref());
            });
        }
    }
}

/// Serves until the program is stopped.
pub(crate) fn forever(site: &Path, port: u16) -> Result<()> {
    let server = Server::start(port)?;
    writeln!(io::stdout(), "{}", server.address)?;
    server.run(site, None);
    Ok(())
}

/// One request: a file of the site, or something posted.
fn answer(stream: &TcpStream, site: &Path, posted: Option<&Sender<Post>>) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream).take(MOST_HEAD);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, url) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let length = body_length(&mut reader)?;
    let Some(posted) = posted.filter(|_| method == "POST") else {
        return match file(url, site).filter(|path| method == "GET" && path.is_file()) {
            Some(path) => respond(stream, "200 OK", kind(&path), &fs::read(&path)?),
            None => respond(stream, "404 Not Found", "text/plain", b""),
        };
    };
    let mut text = String::new();
    reader.set_limit(length.min(MOST_BODY));
    reader.read_to_string(&mut text)?;
    // Nobody listens where the program is about to end.
    let _ = posted.send(Post { path: url.to_owned(), text });
    respond(stream, "204 No Content", "text/plain", b"")
}

/// Reads the headers; how long what follows them is.
fn body_length(reader: &mut impl io::BufRead) -> io::Result<u64> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            return Ok(length);
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
}

fn respond(mut stream: &TcpStream, status: &str, kind: &str, body: &[u8]) -> io::Result<()> {
    // A site that is built anew is to be seen anew.
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nCache-Control: no-cache\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    stream.flush()
}

/// The file of a request's path: none outside of the site.
fn file(url: &str, site: &Path) -> Option<PathBuf> {
    let (path, _) = url.split_once('?').unwrap_or((url, ""));
    let mut file = site.to_owned();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if part.starts_with('.') || part.contains(['\\', ':']) {
            return None;
        }
        file.push(part);
    }
    Some(if path.ends_with('/') { file.join("index.html") } else { file })
}

fn kind(path: &Path) -> &'static str {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("wasm") => "application/wasm",
        Some("png") => "image/png",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    }
}
