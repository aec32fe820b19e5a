//! `pgfleet man`: manual pages, made from the parser's own definition: one of the program, one of each command.

use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;

use crate::cli::Cli;
use crate::exit::CliError;
use crate::output::print;

pub fn run(words: &[String], dir: Option<&Path>) -> Result<(), CliError> {
    // Built, every command knows its whole name and the options of those above it.
    let mut root = without_help(Cli::command());
    root.build();
    if let Some(dir) = dir {
        return write_all(root, dir);
    }
    let mut command = &root;
    for word in words {
        command = command.find_subcommand(word).ok_or_else(|| {
            let all: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
            let known = if all.is_empty() { "no commands".to_owned() } else { all.join(", ") };
            CliError::Usage(format!("there is no command {word:?}; {} has {known}", command.get_name()))
        })?;
    }
    print(page(command)?.trim_end())
}

/// `help` repeats every command; the pages are the help.
fn without_help(command: Command) -> Command {
    command.disable_help_subcommand(true).mut_subcommands(without_help)
}

fn page(command: &Command) -> Result<String, CliError> {
    let mut page = Vec::new();
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let rendered = Man::new(command.clone()).title(name.to_uppercase()).render(&mut page);
    rendered.map_err(|error| CliError::Failed(format!("cannot write the page: {error}")))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

fn write_all(root: Command, dir: &Path) -> Result<(), CliError> {
    let failed =
        |error: std::io::Error| CliError::Failed(format!("cannot write pages into {}: {error}", dir.display()));
    std::fs::create_dir_all(dir).map_err(failed)?;
    clap_mangen::generate_to(root, dir).map_err(failed)
}
