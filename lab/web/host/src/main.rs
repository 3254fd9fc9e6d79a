//! Packs the page, serves it on this machine alone, or shows it to a browser and prints what it posts.

mod pack;
mod serve;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Packs the page, serves it, or shows it to a browser
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Make the site of the page's compiled code, its files, and what these load
    Pack {
        /// The page's compiled code
        #[arg(long)]
        wasm: PathBuf,
        /// The page's files
        #[arg(long)]
        files: PathBuf,
        /// Another file or folder for the site, under a name there: data/x=/where/it/is; several times for several
        #[arg(long, value_name = "NAME=PATH", value_parser = pack::extra)]
        extra: Vec<(String, PathBuf)>,
        /// The folder of the site; made anew
        #[arg(long)]
        site: PathBuf,
    },
    /// Serve the site on the loopback address until this is stopped, and print where
    Serve {
        #[arg(long)]
        site: PathBuf,
        /// 0 takes a port that is free
        #[arg(long, default_value_t = 0)]
        port: u16,
    },
    /// Show a browser the page with its checks running, and print each line that it posts, until it is done
    Show {
        #[arg(long)]
        site: PathBuf,
        /// Only cases with this in their names; several times for several
        #[arg(long)]
        only: Vec<String>,
        /// So long may the page be silent, in seconds
        #[arg(long, default_value_t = 600)]
        patience: u64,
        /// The browser and its arguments; the page's address follows them
        #[arg(last = true, required = true)]
        browser: Vec<String>,
    },
}

fn main() -> Result<ExitCode> {
    match Options::parse().task {
        Task::Pack { wasm, files, extra, site } => pack::pack(&wasm, &files, &extra, &site)?,
        Task::Serve { site, port } => serve::forever(&site, port)?,
        Task::Show { site, only, patience, browser } => {
            show::show(&site, &only, std::time::Duration::from_secs(patience), &browser)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
