//! `hopend check`.

use std::path::Path;

use super::{ConfigArgument, Exit, print_error, print_line};
use crate::config::{self, Config, PartialConfig, ProblemScope, Severity};
use crate::surface::control::{self, ControlRequest, ControlResponse};
use crate::telemetry::audit;

/// Arguments of `hopend check`.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArguments {
    #[command(flatten)]
    config: ConfigArgument,
}

/// An error or a warning about the configuration file.
struct ConfigRemark {
    /// The line of the file, from 1, if the remark concerns one.
    line: Option<usize>,
    text: String,
    severity: Severity,
}

pub(super) fn run(arguments: &CheckArguments) -> Exit {
    let path = &arguments.config.config;
    let loaded = match config::load_valid_parts(path, &config::system_account) {
        Ok(loaded) => loaded,
        Err(problems) => {
            print_error(problems);
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
        print_error(format_args!(
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
        let starts = problems.is_some_and(|problems| !problems.concern_daemon());
        if starts && !loaded.config.endpoints.is_empty() {
            let parts = loaded
                .left_out
                .iter()
                .map(|left_out| left_out.part.to_string());
            let parts = parts.collect::<Vec<_>>().join(", ");
            print_error(format_args!("hopend can serve the rest, without {parts}"));
            preview(path);
        }
        return Exit::Configuration;
    }
    let config = &loaded.config;
    if let Some(file) = &config.daemon.audit
        && let Err(error) = audit::check_writable(file)
    {
        print_error(format_args!("hopend: {error}"));
        // Only the daemon's account can find out, so this is no error of the configuration.
        if !error.is_permission() {
            return Exit::Configuration;
        }
    }
    for warning in config::loopback_warnings(config, Path::new(config::HOSTS_FILE)) {
        print_error(format_args!("hopend: warning: {warning}"));
    }
    print_line(format_args!("{}: no errors", path.display()));
    summarise(config);
    preview(path);
    Exit::Ok
}

/// All remarks, in the order of the lines. An unknown account of a user is only a warning, because the
/// daemon leaves out only that user until the account is known.
fn remarks(loaded: &PartialConfig) -> Vec<ConfigRemark> {
    let problems = loaded
        .problems
        .iter()
        .flatten()
        .map(|problem| ConfigRemark {
            line: problem.line,
            text: problem.to_string(),
            severity: match problem.reach {
                ProblemScope::Account(..) => Severity::Warning,
                ProblemScope::Daemon | ProblemScope::Parts(_) | ProblemScope::Proof(_) => {
                    Severity::Error
                }
            },
        });
    let notices = loaded.config.notices.iter().map(|notice| ConfigRemark {
        line: Some(notice.line),
        text: notice.to_string(),
        severity: notice.severity,
    });
    let mut remarks: Vec<ConfigRemark> = problems.chain(notices).collect();
    remarks.sort_by_key(|remark| remark.line);
    remarks
}

/// Prints how many live sessions a reload would end. Prints nothing if the daemon does not answer.
fn preview(path: &Path) {
    let (Ok(Some(control)), Ok(file)) = (config::control_socket(path), path.canonicalize()) else {
        return;
    };
    let Ok(ControlResponse::Preview(preview)) =
        control::request(&control, &ControlRequest::Preview { config: file })
    else {
        return;
    };
    let count: u64 = preview.lost.iter().map(|lost| lost.count).sum();
    print_line(format_args!(
        "a reload would end {count} of {} sessions",
        preview.open
    ));
    for lost in preview.lost {
        print_line(format_args!("  {}: {}", lost.count, lost.reason));
    }
}

/// Prints one line for each endpoint: its addresses, its target and its users.
fn summarise(config: &Config) {
    for endpoint in &config.endpoints {
        let listen: Vec<_> = endpoint.listen.iter().map(ToString::to_string).collect();
        let users: Vec<_> = endpoint.users.iter().map(|user| &*user.name).collect();
        print_line(format_args!(
            "  {}: {} -> {}, for {}",
            endpoint.name,
            listen.join(" "),
            endpoint.target,
            users.join(" ")
        ));
    }
}
