//! `hopend man`: manual pages, made of the same definitions as `--help`.

use std::io;
use std::path::{Path, PathBuf};

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{Exit, complain, help, say};

/// Arguments of `hopend man`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Write hopend.1 and a page for each subcommand into this directory, which is made if it is
    /// not there. Without it, hopend.1 is printed
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let written = match &arguments.dir {
        Some(dir) => write_all(dir),
        None => page(&built(), &[]).map(|text| say(text.trim_end())),
    };
    match written {
        Ok(()) => Exit::Ok,
        Err(error) => {
            let dir = arguments.dir.clone().unwrap_or_default();
            complain(format_args!("hopend man: {}: {error}", dir.display()));
            Exit::Unavailable
        }
    }
}

/// With the names that subcommands have in pages.
fn built() -> clap::Command {
    let mut command = help::command().disable_help_subcommand(true);
    command.build();
    command
}

fn write_all(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let command = built();
    std::fs::write(dir.join("hopend.1"), page(&command, &[])?)?;
    for subcommand in command.get_subcommands() {
        let name = format!("hopend-{}.1", subcommand.get_name());
        let page = page(subcommand, &["hopend"])?;
        std::fs::write(dir.join(name), page)?;
    }
    Ok(())
}

/// The page of a command, with what it refers to at its end.
fn page(command: &clap::Command, see_also: &[&str]) -> io::Result<String> {
    let man = Man::new(command.clone())
        .source(concat!("hopend ", env!("CARGO_PKG_VERSION")))
        .manual("hopend manual");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().next().is_some() {
        man.render_options_section(&mut page)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut sections = Roff::new();
    if let Some(text) = command.get_after_long_help() {
        render_sections(&mut sections, &text.to_string());
    }
    if !see_also.is_empty() {
        sections.control("SH", ["SEE ALSO"]);
        for name in see_also {
            sections.text([bold(*name), roman("(1)")]);
        }
    }
    sections.to_writer(&mut page)?;
    let page = String::from_utf8(page).map_err(io::Error::other)?;
    Ok(with_one_preamble(&page))
}

/// Each part was written as if it were the page: the definitions that all begin with stay once.
fn with_one_preamble(page: &str) -> String {
    let Some((preamble, _)) = page.split_once(".TH ") else {
        return page.to_owned();
    };
    format!("{preamble}{}", page.replace(preamble, ""))
}

/// Headings with a colon, and indented lines under them that are kept as they are.
fn render_sections(roff: &mut Roff, text: &str) {
    for section in text.split("\n\n") {
        let (heading, lines) = section.split_once(":\n").unwrap_or(("Notes", section));
        roff.control("SH", [&*heading.to_uppercase()]);
        roff.control("nf", []);
        for line in lines.lines() {
            let line = line.strip_prefix("  ").unwrap_or(line);
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
    }
}
