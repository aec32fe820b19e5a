//! `pgfleet completions`: what a shell needs to complete our command lines, made from the parser's own definition.

use clap::{CommandFactory as _, ValueEnum};
use clap_complete::{Shell as Kind, generate};

use crate::cli::Cli;
use crate::exit::CliError;
use crate::output::print;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub fn run(shell: Shell) -> Result<(), CliError> {
    let kind = match shell {
        Shell::Bash => Kind::Bash,
        Shell::Zsh => Kind::Zsh,
        Shell::Fish => Kind::Fish,
    };
    let mut script = Vec::new();
    generate(kind, &mut Cli::command(), "pgfleet", &mut script);
    print(String::from_utf8_lossy(&script).trim_end())
}
