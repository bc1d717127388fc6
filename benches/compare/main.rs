//! hopend beside the proxies that one could put in its place: haproxy, stunnel and nginx, each in
//! front of the same q server behind TLS, and direct TLS as what all of them are measured against.
//!
//! `cargo bench --bench compare` installs the peers where they are missing (Debian's packages),
//! runs every row with every contender in turn, and prints one table: medians, and hopend's ratio
//! to the best peer. `cargo bench --bench compare -- get round` runs the rows whose name begins so;
//! `@hopend` among them leaves out the other contenders.
//! Loopback only; it ends by itself.

#![expect(
    clippy::print_stdout,
    unreachable_pub,
    reason = "a program of its own, whose output is a table"
)]
#![allow(clippy::cast_precision_loss, reason = "figures to be read")]

mod client;
mod contender;
mod figures;
mod peers;
mod rows;
mod server;
mod table;

use std::path::Path;

use contender::Contender;

/// How often each row is run with each contender.
const ROUNDS: usize = 5;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, folder] = &arguments[..]
        && mode == server::MODE
    {
        return server::run(Path::new(folder));
    }
    // cargo adds flags of its own.
    let wanted: Vec<String> = arguments
        .into_iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    if let Err(error) = compare(&wanted) {
        eprintln!("compare: {error}");
        std::process::exit(1);
    }
}

fn compare(wanted: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    peers::install()?;
    let folder = tempfile::tempdir()?;
    let server = server::Process::start(folder.path())?;
    let (only, wanted): (Vec<&str>, Vec<&str>) = wanted
        .iter()
        .map(String::as_str)
        .partition(|name| name.starts_with('@'));
    let contenders: Vec<_> = Contender::all()
        .into_iter()
        .filter(|contender| {
            only.is_empty()
                || only
                    .iter()
                    .any(|name| contender.name().starts_with(&name[1..]))
        })
        .collect();
    let mut table = table::Table::new(&contenders);
    for row in rows::all() {
        if !wanted.is_empty() && !wanted.iter().any(|name| row.name.starts_with(name)) {
            continue;
        }
        for round in 1..=ROUNDS {
            for contender in &contenders {
                eprint!("\r\x1b[K{} {round}/{ROUNDS} {}", row.name, contender.name());
                let figures = row.run(*contender, folder.path(), &server)?;
                table.add(row, *contender, figures);
            }
        }
        eprint!("\r\x1b[K");
        table.print(row);
    }
    println!("\n{}", peers::machine());
    Ok(())
}
