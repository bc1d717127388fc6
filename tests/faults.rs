//! The fault table: one row a fault, one test a row. Each test asserts what the client saw, what was
//! logged and what recovered, from the row itself; the page [`PAGE`] is written from the same rows.

/// Rows and their tests. Each test is given its row.
macro_rules! faults {
    (#[$test_macro:meta] $($name:ident {
        fault: $fault:expr,
        sees: $sees:expr,
        log: $log:expr,
        recovers: $recovers:expr,
        test($row:ident): $test:expr $(,)?
    })*) => {
        pub const ROWS: &[crate::faults::Row] = &[$(rows::$name),*];

        #[allow(non_upper_case_globals, reason = "a row has the name of its test")]
        mod rows {
            use super::*;
            $(
                pub const $name: crate::faults::Row = crate::faults::Row {
                    test: concat!(module_path!(), "::", stringify!($name)),
                    fault: $fault,
                    sees: $sees,
                    log: $log,
                    recovers: $recovers,
                };
            )*
        }

        $(
            #[$test_macro]
            async fn $name() {
                let $row = &rows::$name;
                $test.await;
            }
        )*
    };
}

mod aws;
mod certificates;
mod clients;
mod host;
mod names;
mod opening;
mod relay;

use std::fmt;
use std::io::ErrorKind;

use crate::support::qclient::Refused;
use crate::support::{Configuration, Log, Process, QClient, Stage};
use simulator::{ClusterFault, Times};

/// The page that is written from the rows.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/README.md");

/// One fault.
pub struct Row {
    /// The test's path.
    pub test: &'static str,
    /// What goes wrong.
    pub fault: &'static str,
    /// What the client sees of it.
    pub sees: Sees,
    /// Parts of the one line that is logged.
    pub log: &'static [&'static str],
    /// What recovers, and when.
    pub recovers: &'static str,
}

/// What a client can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sees {
    /// The end of the stream in place of the capability byte.
    Access,
    /// A reset connection.
    Reset,
    /// Nobody listens.
    Nobody,
    /// The end of the stream.
    End,
    /// q's error with this text, then the end of the stream.
    Error(&'static str),
    /// Nothing of it.
    Nothing,
}

impl Sees {
    /// How an attempt to open a handle went.
    pub fn of(opened: Result<QClient, Refused>) -> Self {
        match opened {
            Ok(_) => Self::Nothing,
            Err(Refused::Access) => Self::Access,
            Err(Refused::Broken(error)) if error.kind() == ErrorKind::ConnectionRefused => {
                Self::Nobody
            }
            Err(Refused::Broken(error)) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
                Self::Reset
            }
        }
    }

    /// How a handle ended that waited for an answer, or that was idle.
    pub async fn end_of(mut handle: QClient) -> Self {
        let ended = match handle.message().await {
            Ok((header, body)) => {
                let value = q_ipc::value::decode(&body, header.little_endian).unwrap();
                let q_ipc::value::Value::Error(text) = value else {
                    panic!("an answer: {value:?}");
                };
                assert!(handle.sees_end().await, "nothing more follows an error");
                return Self::Error(text.leak());
            }
            Err(error) => error.kind(),
        };
        match ended {
            ErrorKind::UnexpectedEof => Self::End,
            ErrorKind::ConnectionReset => Self::Reset,
            other => panic!("the handle ended with {other}"),
        }
    }
}

impl fmt::Display for Sees {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Access => f.write_str("refused: `'access`"),
            Self::Reset => f.write_str("reset"),
            Self::Nobody => f.write_str("refused: `'hop`"),
            Self::End => f.write_str("end of the stream"),
            Self::Error(text) => write!(f, "error `{text}`, then the end of the stream"),
            Self::Nothing => f.write_str("nothing"),
        }
    }
}

impl Row {
    /// Asserts that this is what the client saw.
    #[track_caller]
    pub fn saw(&self, seen: Sees) {
        assert_eq!(seen, self.sees, "{}", self.fault);
    }

    /// Waits for the row's line, which names the side and what to do.
    pub async fn logged(&self, log: &Log) {
        log.line_with(self.log).await;
    }

    /// The same of a daemon that is a process of its own.
    pub fn logged_by(&self, daemon: &mut Process) {
        daemon.line_with_all(self.log);
    }

    fn place(&self) -> (&str, &str) {
        let path = self.test.trim_end_matches("::rows");
        let path = path.split_once("faults::").unwrap().1;
        let (file, rest) = path.split_once("::").unwrap();
        (file, rest.rsplit("::").next().unwrap())
    }
}

/// A fault of a simulator's and the daemon before it, both in this process.
pub struct Case {
    pub stage: Stage,
    pub log: Log,
    _guard: crate::support::log::Capture,
}

impl Case {
    /// With a dial that is given up after a second.
    pub async fn start() -> Self {
        Self::with(|config| config).await
    }

    /// With a dial that is given up after a second, and more changes of the configuration.
    pub async fn with(change: impl FnOnce(Configuration) -> Configuration) -> Self {
        let (log, guard) = Log::capture();
        let stage = Stage::builder()
            .configure(|config| config.every_kdb_endpoint(|kdb| kdb.connect_timeout("1s")))
            .configure(change)
            .start()
            .await;
        Self::of(stage, log, guard)
    }

    pub fn of(stage: Stage, log: Log, guard: crate::support::log::Capture) -> Self {
        Self {
            stage,
            log,
            _guard: guard,
        }
    }

    /// Sets a fault of the cluster of endpoint `hdb`.
    pub fn set(&self, fault: ClusterFault) {
        let faults = self.stage.sim.faults();
        faults.cluster("hdb-cluster", fault, Times::Always);
    }

    /// `hopen` of endpoint `hdb`.
    pub async fn hopen(&self) -> Sees {
        Sees::of(QClient::open(self.stage.address("hdb"), "", "").await)
    }

    /// Nothing that was logged holds a secret.
    pub fn end(self) {
        keeps_secrets(&self.log.text(), &self.stage.sim.issued_secrets());
    }
}

/// Asserts that none of the `secrets`, nor the beginning of one, stands in the `log`.
pub fn keeps_secrets(log: &str, secrets: &[String]) {
    for secret in secrets {
        let head: String = secret.chars().take(16).collect();
        let line = log.lines().find(|line| line.contains(&head));
        assert_eq!(line, None, "a secret was logged");
    }
}

fn page() -> String {
    let mut page = String::from(
        "# The fault table\n\n\
         One row a fault, one test a row: `cargo test --test behaviour faults::FILE::TEST`. Each test \
         asserts what the client sees, that one line of the log has all of the parts shown here, that \
         no line holds a secret, and what recovers. This page is written from the rows by \
         `FAULTS=write cargo test --test behaviour faults::the_page`; the same test fails where it \
         differs from them.\n",
    );
    for (title, rows) in FILES {
        page.push_str(&format!(
            "\n## {title}\n\n| Fault | The client sees | The log says | Recovers | Test |\n\
             |---|---|---|---|---|\n"
        ));
        for row in *rows {
            let (file, test) = row.place();
            let log: Vec<_> = row.log.iter().map(|part| format!("`{part}`")).collect();
            page.push_str(&format!(
                "| {} | {} | {} | {} | `{file}::{test}` |\n",
                row.fault,
                row.sees,
                log.join(" … "),
                row.recovers,
            ));
        }
    }
    page
}

const FILES: &[(&str, &[Row])] = &[
    ("Opening a handle", opening::ROWS),
    ("Certificates", certificates::ROWS),
    ("Live sessions", relay::ROWS),
    ("Names", names::ROWS),
    ("AWS and time", aws::ROWS),
    ("Clients", clients::ROWS),
    ("The host and its administrator", host::ROWS),
];

#[test]
fn the_page_is_what_the_rows_say() {
    let page = page();
    if std::env::var_os("FAULTS").is_some_and(|value| value == "write") {
        std::fs::write(PAGE, &page).unwrap();
    }
    let written = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        written == page,
        "tests/faults/README.md is out of date: FAULTS=write cargo test --test behaviour \
         faults::the_page"
    );
}

/// A row without a side or without a line would assert little.
#[test]
fn every_row_says_something() {
    let mut tests = std::collections::HashSet::new();
    for row in FILES.iter().flat_map(|(_, rows)| *rows) {
        assert!(!row.log.is_empty(), "{}", row.test);
        assert!(!row.fault.is_empty() && !row.recovers.is_empty());
        assert!(tests.insert(row.test), "{} twice", row.test);
    }
}
