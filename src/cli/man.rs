//! `hopend man`: manual pages, made from the same definitions as `--help`.

use std::io;
use std::path::{Path, PathBuf};

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{Exit, help, print_error, print_line};

/// Arguments of `hopend man`.
#[derive(Debug, clap::Args)]
pub(super) struct ManArguments {
    /// Write hopend.1 and a page for each subcommand into this directory, and create the directory if
    /// necessary. Without this option, print hopend.1
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(arguments: &ManArguments) -> Exit {
    let written = match &arguments.dir {
        Some(dir) => write_all(dir),
        None => render_page(&built_command(), &[]).map(|text| print_line(text.trim_end())),
    };
    match written {
        Ok(()) => Exit::Ok,
        Err(error) => {
            let dir = arguments.dir.clone().unwrap_or_default();
            print_error(format_args!("hopend man: {}: {error}", dir.display()));
            Exit::Unavailable
        }
    }
}

/// The command line with the full names of its subcommands, such as `hopend-run`.
fn built_command() -> clap::Command {
    let mut command = help::command().disable_help_subcommand(true);
    command.build();
    command
}

fn write_all(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let command = built_command();
    std::fs::write(dir.join("hopend.1"), render_page(&command, &[])?)?;
    for subcommand in command.get_subcommands() {
        let name = format!("hopend-{}.1", subcommand.get_name());
        let page = render_page(subcommand, &["hopend"])?;
        std::fs::write(dir.join(name), page)?;
    }
    Ok(())
}

/// Renders the page of a command. Its last section refers to the pages `see_also`.
fn render_page(command: &clap::Command, see_also: &[&str]) -> io::Result<String> {
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

/// Removes all but the first preamble, because clap_mangen starts each part of a page with the same
/// definitions.
fn with_one_preamble(page: &str) -> String {
    let Some((preamble, _)) = page.split_once(".TH ") else {
        return page.to_owned();
    };
    format!("{preamble}{}", page.replace(preamble, ""))
}

/// Renders sections: a heading that ends with a colon, and lines under it that keep their breaks.
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
