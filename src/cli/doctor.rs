//! `hopend doctor`.

use std::time::Duration;

use super::report::ReportPrinter;
use super::{ConfigArgument, Exit, parse_duration, print_error, runtime, secrets};
use crate::doctor::{self, DoctorOptions};

/// The description in `hopend doctor --help`.
pub(super) const ABOUT: &str = "\
Check everything between a q process on this host and an answer of kdb+, stage by stage. For each stage \
that fails, hopend says what to change: a key of the configuration, a certificate, a route, or the \
statement that an IAM policy lacks. Stages that need the result of a failed stage are skipped. Without \
ENDPOINT, hopend checks every endpoint. Without --user, it checks every user.

hopend logs in to kdb+, but sends no query. It changes nothing and shows no secret. Run it as the account \
of the daemon, as another account may read other files and other credentials.

A stage takes at most --timeout. A TLS stage that fails may take twice that, to find the cause.";

/// The sections of `hopend doctor --help` after the options.
pub(super) const EXAMPLES: &str = "\
Exit status:
  0   no stage failed; there may be warnings
  69  a service or a resource is unavailable
  77  a permission is missing
  78  the configuration has an error
  If several stages fail, the highest number counts.

Environment:
  NO_COLOR  if it is set and not empty, hopend prints no colours on a terminal

Examples:
  hopend doctor
  hopend doctor hdb --user alice
  hopend doctor rdb --user svc --ask-password
  hopend doctor --json --timeout 3s";

/// Arguments of `hopend doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArguments {
    /// The name of an endpoint; without it, all endpoints
    endpoint: Option<String>,
    /// The name of a [[user]]; without it, all users of the endpoint
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Ask for the user's password, or read it from a line of standard input, to log in at endpoints
    /// with login = "client"
    #[arg(long, requires = "user")]
    ask_password: bool,
    #[command(flatten)]
    config: ConfigArgument,
    /// The longest time that a stage may take
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    timeout: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &DoctorArguments) -> Exit {
    let password = arguments.ask_password.then(secrets::read_password);
    let password = match password.transpose() {
        Ok(password) => password,
        Err(error) => {
            print_error(format_args!("hopend doctor: no password: {error}"));
            return Exit::Usage;
        }
    };
    let options = DoctorOptions {
        config: arguments.config.config.clone(),
        endpoint: arguments.endpoint.clone(),
        user: arguments.user.clone(),
        password,
        limit: arguments.timeout,
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(exit) => return exit,
    };
    let mut printer = ReportPrinter::new(arguments.json);
    runtime.block_on(doctor::examine(&options, &mut |event| {
        printer.print(&event);
    }));
    // Does not wait for threads that still ask a silent name server.
    runtime.shutdown_background();
    printer.finish()
}
