//! The report of `hopend doctor`, printed while the stages run.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use serde_json::{Value, json};

use super::{Exit, colours_permitted, print_line};
use crate::doctor::{StageEvent, StageOutcome, StageReport, StageSubject};
use base::error::with_full_stop;

/// The width of the column with the stages' names, in characters.
const NAME_WIDTH: usize = 21;

/// Prints the report while the stages run.
pub(super) struct ReportPrinter {
    format: ReportFormat,
    /// The subject whose heading was printed last.
    heading: Option<StageSubject>,
    /// The finished stages; only filled for JSON.
    rows: Vec<Value>,
    /// Stages that ran.
    stages: usize,
    failed: usize,
    /// The highest exit code of the failures so far.
    exit: Exit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReportFormat {
    /// One JSON array, printed at the end.
    Json,
    /// Lines for a file or a pipe.
    Plain,
    /// Lines for a terminal. A line with the running stage stands until the stage has finished.
    Terminal { colours: bool },
}

impl ReportPrinter {
    pub(super) fn new(json: bool) -> Self {
        let format = match json {
            true => ReportFormat::Json,
            false if std::io::stdout().is_terminal() => ReportFormat::Terminal {
                colours: colours_permitted(),
            },
            false => ReportFormat::Plain,
        };
        Self {
            format,
            heading: None,
            rows: Vec::new(),
            stages: 0,
            failed: 0,
            exit: Exit::Ok,
        }
    }

    fn is_live(&self) -> bool {
        matches!(self.format, ReportFormat::Terminal { .. })
    }

    pub(super) fn print(&mut self, event: &StageEvent<'_>) {
        match event {
            StageEvent::Started(subject, name) if self.is_live() => {
                self.print_heading(subject);
                let mut stdout = std::io::stdout().lock();
                let _ = write!(stdout, "  … {name}");
                let _ = stdout.flush();
            }
            StageEvent::Started(..) => {}
            StageEvent::Finished(subject, stage) => self.print_stage(subject, stage),
        }
    }

    fn print_stage(&mut self, subject: &StageSubject, stage: &StageReport) {
        if stage.outcome != StageOutcome::Skipped {
            self.stages += 1;
        }
        if let StageOutcome::Failed(kind) = stage.outcome {
            self.failed += 1;
            self.exit = worse(self.exit, kind.into());
        }
        if self.format == ReportFormat::Json {
            self.rows.push(json_row(subject, stage));
            return;
        }
        self.print_heading(subject);
        if self.is_live() {
            // Erases the line with the running stage.
            let _ = write!(std::io::stdout().lock(), "\r\x1b[K");
        }
        print_line(self.stage_lines(stage));
    }

    fn print_heading(&mut self, subject: &StageSubject) {
        if self.heading.as_ref() == Some(subject) {
            return;
        }
        let text = subject.to_string();
        if !text.is_empty() {
            print_line(self.paint("1", &text));
        }
        self.heading = Some(subject.clone());
    }

    /// One line with the finding, and indented lines with details and remedy.
    fn stage_lines(&self, stage: &StageReport) -> String {
        let (mark, colour) = match stage.outcome {
            StageOutcome::Passed => ("✓", "32"),
            StageOutcome::Warned => ("!", "33"),
            StageOutcome::Failed(_) => ("✗", "31"),
            StageOutcome::Skipped => ("–", "2"),
        };
        let took = match stage.outcome {
            StageOutcome::Skipped => String::new(),
            _ => format_duration(stage.took),
        };
        let mut finding = stage.finding.lines();
        let mut text = format!(
            "  {} {:NAME_WIDTH$} {took:>8}  {}",
            self.paint(colour, mark),
            stage.name.name(),
            finding.next().unwrap_or_default()
        );
        for line in finding {
            let _ = write!(text, "\n      {line}");
        }
        if let Some(remedy) = stage.remedy.as_ref().filter(|remedy| !remedy.is_empty()) {
            let _ = write!(text, "\n      Fix: {}", with_full_stop(remedy));
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

    /// Adds a colour (an SGR parameter) if the output is to have colours.
    fn paint(&self, colour: &str, text: &str) -> String {
        if self.format == (ReportFormat::Terminal { colours: true }) {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Prints the end of the report and returns the exit code.
    pub(super) fn finish(self) -> Exit {
        if self.format == ReportFormat::Json {
            print_line(Value::from(self.rows));
        } else {
            print_line(verdict(self.stages, self.failed));
        }
        self.exit
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

fn json_row(subject: &StageSubject, stage: &StageReport) -> Value {
    let (outcome, side) = match stage.outcome {
        StageOutcome::Passed => ("passed", None),
        StageOutcome::Warned => ("warned", None),
        StageOutcome::Failed(kind) => ("failed", Some(kind.name())),
        StageOutcome::Skipped => ("skipped", None),
    };
    json!({
        "environment": subject.environment,
        "endpoint": subject.endpoint,
        "user": subject.user,
        "address": subject.address,
        "stage": stage.name.name(),
        "outcome": outcome,
        "side": side,
        "seconds": stage.took.as_secs_f64(),
        "finding": stage.finding,
        "remedy": stage.remedy,
        "missing": stage.missing,
    })
}

fn format_duration(took: Duration) -> String {
    match took.as_millis() {
        millis @ 0..1_000 => format!("{millis} ms"),
        _ => format!("{:.1} s", took.as_secs_f64()),
    }
}

/// The exit code with the higher number: a configuration error outranks a missing permission, which
/// outranks an unavailable service.
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
