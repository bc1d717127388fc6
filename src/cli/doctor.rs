//! `hopend doctor`.

use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use serde_json::{Value, json};

use super::time;
use super::{ConfigArgument, Exit, complain, runtime, say};
use crate::doctor::{self, Event, Outcome, Question, Stage, Subject};
use base::error::{ErrorKind, sentence};
use secret::Secret;

/// Columns of the stages' names.
const NAME_WIDTH: usize = 21;

/// What it does.
pub(super) const ABOUT: &str = "\
Look at everything between a q process here and an answer of kdb+ there, stage by stage, and say of each \
that fails what to change: a key of the configuration, a certificate, a route, or the very statement \
that an IAM policy lacks. What can't be looked at because of it is shown as skipped. Whatever is not \
asked about is looked at as well: without ENDPOINT every endpoint, without --user every user.

It logs in to kdb+ and asks for nothing. It changes nothing and shows no secret. Run it as the account \
of the daemon, or it may read other files and other credentials.

A stage takes --timeout at the most; TLS, where it fails, twice that, to find out why.";

/// How it ends, and how it is typed.
pub(super) const EXAMPLES: &str = "\
Exit status:
  0   all is well, warnings apart
  69  something can't be had
  77  something is not allowed
  78  the configuration is not right; of several the highest counts

Environment:
  NO_COLOR  set to anything: no colours on a terminal

Examples:
  hopend doctor
  hopend doctor hdb --user alice
  hopend doctor rdb --user svc --ask-password
  hopend doctor --json --timeout 3s";

/// Arguments of `hopend doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The endpoint's name; all of them without one
    endpoint: Option<String>,
    /// The name of a [[user]]; all that may use the endpoint without one
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Ask for the user's password, or read it as a line of standard input, to log in where
    /// login = "client"
    #[arg(long, requires = "user")]
    ask_password: bool,
    #[command(flatten)]
    config: ConfigArgument,
    /// The longest that a stage may take
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    timeout: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let password = match arguments.ask_password.then(ask_password).transpose() {
        Ok(password) => password,
        Err(error) => {
            complain(format_args!("hopend doctor: no password: {error}"));
            return Exit::Usage;
        }
    };
    let question = Question {
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
    let mut report = Report::new(arguments.json);
    runtime.block_on(doctor::examine(&question, &mut |event| report.tell(&event)));
    // A resolver that does not answer is not waited for.
    runtime.shutdown_background();
    report.end()
}

fn ask_password() -> std::io::Result<Secret> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return rpassword::prompt_password("Password: ").map(Secret::from);
    }
    let mut line = zeroize::Zeroizing::new(String::new());
    stdin.lock().read_line(&mut line)?;
    Ok(Secret::from(line.trim_end_matches(['\r', '\n'])))
}

/// What is printed, as it happens.
struct Report {
    json: bool,
    /// Whether what runs is shown, and the line drawn over when it has ended.
    live: bool,
    colours: bool,
    heading: Option<Subject>,
    rows: Vec<Value>,
    stages: usize,
    failed: usize,
    worst: Exit,
}

impl Report {
    fn new(json: bool) -> Self {
        let terminal = std::io::stdout().is_terminal() && !json;
        Self {
            json,
            live: terminal,
            colours: terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
            heading: None,
            rows: Vec::new(),
            stages: 0,
            failed: 0,
            worst: Exit::Ok,
        }
    }

    fn tell(&mut self, event: &Event<'_>) {
        match event {
            Event::Begins(subject, name) if self.live => {
                self.head(subject);
                let mut stdout = std::io::stdout().lock();
                let _ = write!(stdout, "  … {name}");
                let _ = stdout.flush();
            }
            Event::Begins(..) => {}
            Event::Ended(subject, stage) => self.ended(subject, stage),
        }
    }

    fn ended(&mut self, subject: &Subject, stage: &Stage) {
        if stage.outcome != Outcome::Skipped {
            self.stages += 1;
        }
        if let Outcome::Failed(kind) = stage.outcome {
            self.failed += 1;
            self.worst = worse(self.worst, exit_of(kind));
        }
        if self.json {
            self.rows.push(row(subject, stage));
            return;
        }
        self.head(subject);
        if self.live {
            // Back to the line's beginning, and away with what stands there.
            let _ = write!(std::io::stdout().lock(), "\r\x1b[K");
        }
        say(self.lines(stage));
    }

    fn head(&mut self, subject: &Subject) {
        if self.heading.as_ref() == Some(subject) {
            return;
        }
        let text = subject.to_string();
        if !text.is_empty() {
            say(self.paint("1", &text));
        }
        self.heading = Some(subject.clone());
    }

    /// One line, and under it what to do.
    fn lines(&self, stage: &Stage) -> String {
        let (mark, colour) = match stage.outcome {
            Outcome::Passed => ("✓", "32"),
            Outcome::Warned => ("!", "33"),
            Outcome::Failed(_) => ("✗", "31"),
            Outcome::Skipped => ("–", "2"),
        };
        let took = match stage.outcome {
            Outcome::Skipped => String::new(),
            _ => duration(stage.took),
        };
        let mut said = stage.said.lines();
        let mut text = format!(
            "  {} {:NAME_WIDTH$} {took:>8}  {}",
            self.paint(colour, mark),
            stage.name.name(),
            said.next().unwrap_or_default()
        );
        for line in said {
            let _ = write!(text, "\n      {line}");
        }
        if let Some(remedy) = stage.remedy.as_ref().filter(|remedy| !remedy.is_empty()) {
            let _ = write!(text, "\n      Fix: {}", sentence(remedy));
        }
        if let Some(missing) = &stage.missing {
            let _ = write!(
                text,
                "\n        missing in the policies of {}:\n        {missing}",
                missing.identity
            );
        }
        text
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn end(self) -> Exit {
        if self.json {
            say(Value::from(self.rows));
        } else {
            say(verdict(self.stages, self.failed));
        }
        self.worst
    }
}

/// The last line of a report.
fn verdict(stages: usize, failed: usize) -> String {
    let noun = if stages == 1 { "stage" } else { "stages" };
    match failed {
        0 => format!("{stages} {noun}, all is well"),
        failed => format!("{stages} {noun}, {failed} failed"),
    }
}

fn row(subject: &Subject, stage: &Stage) -> Value {
    let (outcome, side) = match stage.outcome {
        Outcome::Passed => ("passed", None),
        Outcome::Warned => ("warned", None),
        Outcome::Failed(kind) => ("failed", Some(kind.name())),
        Outcome::Skipped => ("skipped", None),
    };
    json!({
        "environment": subject.environment,
        "endpoint": subject.endpoint,
        "user": subject.user,
        "place": subject.place,
        "stage": stage.name.name(),
        "outcome": outcome,
        "side": side,
        "seconds": stage.took.as_secs_f64(),
        "said": stage.said,
        "remedy": stage.remedy,
        "missing": stage.missing,
    })
}

fn duration(took: Duration) -> String {
    match took.as_millis() {
        millis @ 0..1_000 => format!("{millis} ms"),
        _ => format!("{:.1} s", took.as_secs_f64()),
    }
}

fn exit_of(kind: ErrorKind) -> Exit {
    match kind {
        ErrorKind::Configuration => Exit::Configuration,
        ErrorKind::Denied => Exit::NoPermission,
        _ => Exit::Unavailable,
    }
}

/// A wrong configuration comes before what is not allowed, and that before what can't be had.
fn worse(one: Exit, other: Exit) -> Exit {
    if other.code() > one.code() {
        other
    } else {
        one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stage_is_no_plural() {
        assert_eq!(verdict(1, 1), "1 stage, 1 failed");
        assert_eq!(verdict(1, 0), "1 stage, all is well");
        assert_eq!(verdict(2, 0), "2 stages, all is well");
    }
}
