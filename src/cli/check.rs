//! `hopend check`.

use std::path::Path;

use super::{ConfigArgument, Exit, complain, say};
use crate::config::{self, Config, Loaded, Reach, Severity};
use crate::surface::control::{self, ControlRequest, ControlResponse};
use crate::telemetry::audit;

/// Arguments of `hopend check`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
}

/// What is printed of the file, for a line if it concerns one.
struct Remark {
    line: Option<usize>,
    text: String,
    severity: Severity,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let path = &arguments.config.config;
    let loaded = match config::load_in_part(path, &config::system_account) {
        Ok(loaded) => loaded,
        Err(problems) => {
            complain(problems);
            return Exit::Configuration;
        }
    };
    let remarks = remarks(&loaded);
    for remark in &remarks {
        let line = remark
            .line
            .map_or_else(String::new, |line| format!(":{line}"));
        let warning = match remark.severity {
            Severity::Error => "",
            Severity::Warning => "warning: ",
        };
        complain(format_args!(
            "{}{line}: {warning}{}",
            path.display(),
            remark.text
        ));
    }
    if remarks
        .iter()
        .any(|remark| remark.severity == Severity::Error)
    {
        let problems = loaded.problems.as_ref();
        let starts = problems.is_some_and(|problems| !problems.stop_the_daemon());
        if starts && !loaded.config.endpoints.is_empty() {
            let parts = loaded.left_out.iter().map(|one| one.part.to_string());
            let parts = parts.collect::<Vec<_>>().join(", ");
            complain(format_args!("the rest can be served, without {parts}"));
            preview(path);
        }
        return Exit::Configuration;
    }
    let config = &loaded.config;
    if let Some(file) = &config.daemon.audit
        && let Err(error) = audit::check_writable(file)
    {
        complain(format_args!("hopend: {error}"));
        // Only the daemon's account can tell.
        if !error.is_permission() {
            return Exit::Configuration;
        }
    }
    for found in config::single_families(config, Path::new(config::HOSTS)) {
        complain(format_args!("hopend: warning: {found}"));
    }
    say(format_args!("{}: right", path.display()));
    summarise(config);
    preview(path);
    Exit::Ok
}

/// All remarks, in the order of the lines. A user whose account does not resolve is skipped until it
/// does, so that is a warning.
fn remarks(loaded: &Loaded) -> Vec<Remark> {
    let problems = loaded.problems.iter().flatten().map(|problem| Remark {
        line: problem.line,
        text: problem.to_string(),
        severity: match problem.reach {
            Reach::Account(..) => Severity::Warning,
            Reach::Daemon | Reach::Parts(_) | Reach::Proof(_) => Severity::Error,
        },
    });
    let notices = loaded.config.notices.iter().map(|notice| Remark {
        line: Some(notice.line),
        text: notice.to_string(),
        severity: notice.severity,
    });
    let mut remarks: Vec<Remark> = problems.chain(notices).collect();
    remarks.sort_by_key(|remark| remark.line);
    remarks
}

/// What a reload would do to live sessions, where the daemon that serves the configuration can be asked;
/// nothing otherwise.
fn preview(path: &Path) {
    let (Ok(Some(control)), Ok(file)) = (config::control(path), path.canonicalize()) else {
        return;
    };
    let Ok(ControlResponse::Preview(preview)) =
        control::request(&control, &ControlRequest::Preview { config: file })
    else {
        return;
    };
    let count: u64 = preview.lost.iter().map(|lost| lost.count).sum();
    say(format_args!(
        "a reload would end {count} of {} sessions",
        preview.open
    ));
    for lost in preview.lost {
        say(format_args!("  {}: {}", lost.count, lost.reason));
    }
}

/// What the file means, one line an endpoint.
fn summarise(config: &Config) {
    for endpoint in &config.endpoints {
        let listen: Vec<_> = endpoint.listen.iter().map(ToString::to_string).collect();
        let users: Vec<_> = endpoint.users.iter().map(|user| &*user.name).collect();
        say(format_args!(
            "  {}: {} -> {}, for {}",
            endpoint.name,
            listen.join(" "),
            endpoint.target,
            users.join(" ")
        ));
    }
}
