//! The page for browsers: built, served, tested.

mod build;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use drivers::Choice;
use drivers::workspace::Workspace;

pub(crate) use build::site;

/// Build the page for browsers, a static site below target/site
///
/// Masks that are typed, pushed and painted, with what attention makes of them; the heads of a real model; the browser's own
/// GPU checked and measured. Any file server serves it.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Serve it on the loopback address until this is stopped, and print where
    #[arg(long, conflicts_with = "test")]
    serve: bool,

    /// The port to serve on; 0 takes one that is free
    #[arg(long, default_value_t = 0, requires = "serve")]
    port: u16,

    /// Test it in headless Chromium, which is fetched below the target folder; needs Node.js
    #[arg(long)]
    test: bool,

    /// With --test: only the tests with this in their names
    #[arg(requires = "test")]
    filter: Option<String>,

    /// With --test: also write the pictures of the page for docs/page
    #[arg(long, requires = "test")]
    write: bool,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask web                  build it
  cargo xtask web --serve          and look at it
  cargo xtask web --test paint     its tests with `paint` in their names";

/// `cargo xtask web`.
pub(crate) fn run(workspace: &Workspace, choice: Choice, options: &Options) -> Result<ExitCode> {
    let site = site(workspace)?;
    if options.test {
        return test::run(workspace, choice, &site, options.filter.as_deref(), options.write);
    }
    eprintln!("{}", site.folder.display());
    if options.serve {
        return site.serve(options.port);
    }
    Ok(ExitCode::SUCCESS)
}
