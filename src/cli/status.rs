//! `hopend status`.

use std::path::Path;
use std::time::Duration;

use super::daemon::{self, Unanswered};
use super::screen::{Shown, View};
use super::{ConfigArgument, Exit, complain, overview, screen};
use crate::config::ListenAddress;
use crate::identity::{holder, process};
use crate::primitives::kernel_sockets::FourTuple;
use crate::surface::control::{Answer, Request};
use crate::surface::status::{SessionRow, Status};

/// Between two looks of `--watch`.
const EVERY: Duration = Duration::from_secs(1);

/// Arguments of `hopend status`.
///
/// Asks the running daemon at its control socket, so it is for root and the daemon's own account.
/// Processes of other accounts behind TCP connections are shown to root only.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Look again each second, until q or Ctrl-C. On a terminal the arrows, PgUp and PgDn scroll, and s
    /// sorts the sessions
    #[arg(long)]
    watch: bool,
}

/// What one look found.
enum Look {
    Status(Box<Status>),
    /// JSON, or why there is no status.
    Text(String),
}

impl From<String> for Look {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl Shown for Look {
    fn text(&self) -> String {
        match self {
            Self::Status(status) => overview::of(status),
            Self::Text(text) => text.clone(),
        }
    }

    fn lines(&self, view: View) -> Vec<String> {
        match self {
            Self::Status(status) => overview::lines(status, view),
            Self::Text(text) => Shown::lines(text, view),
        }
    }
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    let control = match daemon::control(&arguments.config.config) {
        Ok(control) => control,
        Err(exit) => return exit,
    };
    let look = || {
        let status = status(&control)?;
        Ok(if arguments.json {
            let json = serde_json::to_string(&status);
            Look::Text(json.unwrap_or_else(|error| error.to_string()))
        } else {
            Look::Status(Box::new(status))
        })
    };
    let every = arguments.watch.then_some(EVERY);
    match screen::print(every, look, |unanswered: Unanswered| unanswered.why) {
        Ok(Ok(())) => Exit::Ok,
        Ok(Err(error)) => screen::unusable(&error),
        Err(unanswered) => give_up(&unanswered),
    }
}

fn give_up(unanswered: &Unanswered) -> Exit {
    complain(format_args!("hopend: {}", unanswered.why));
    unanswered.exit
}

fn status(control: &Path) -> Result<Status, Unanswered> {
    match daemon::ask(control, &Request::Status)? {
        Answer::Status(mut status) => {
            find_processes(&mut status);
            find_holders(&mut status);
            Ok(*status)
        }
        other => Err(Unanswered {
            exit: Exit::Software,
            why: format!("the daemon answered something else: {other:?}"),
        }),
    }
}

/// A daemon without privileges can't see which process of another account holds a connection; root,
/// who asks, can.
fn find_processes(status: &mut Status) {
    let ends = |row: &SessionRow| {
        let client = row.client.parse().ok()?;
        Some(FourTuple::new(client, row.server.as_deref()?.parse().ok()?))
    };
    let unknown = status.sessions.iter_mut().filter(|row| row.pid.is_none());
    let unknown: Vec<_> = unknown.filter_map(|row| Some((ends(row)?, row))).collect();
    let processes = process::of_clients(unknown.iter().map(|(ends, _)| *ends));
    for (ends, row) in unknown {
        row.pid = processes.get(&ends).copied();
        row.program = row.pid.and_then(process::program);
    }
}

/// The same for the processes that hold addresses of hopend's.
fn find_holders(status: &mut Status) {
    let rows = status.endpoints.iter_mut().flat_map(|row| &mut row.unbound);
    for row in rows.filter(|row| row.pid.is_none()) {
        let socket = row.socket.as_ref().and_then(|socket| socket.parse().ok());
        let Some(socket): Option<ListenAddress> = socket else {
            continue;
        };
        if let Some(holder) = holder::find(&socket).filter(|holder| Some(holder.uid) == row.uid) {
            row.reason = format!("{holder} holds {socket}");
            row.pid = holder.pid;
            row.program = holder.program;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use jiff::Timestamp;

    use super::*;

    fn row(session: u64, client: &TcpStream) -> SessionRow {
        SessionRow {
            session,
            endpoint: "hdb".into(),
            user: "alice".into(),
            account: None,
            pid: None,
            program: None,
            client: client.local_addr().unwrap().to_string(),
            server: Some(client.peer_addr().unwrap().to_string()),
            target: "10.0.0.1:443".into(),
            node: None,
            since: Timestamp::UNIX_EPOCH,
            idle_s: 0.0,
            bytes_up: 0,
            bytes_down: 0,
            messages_up: 0,
            messages_down: 0,
            outstanding: 0,
            pings: 0,
        }
    }

    /// The endpoint listens on all addresses, or has gone with a reload.
    #[test]
    fn a_process_is_found_by_both_ends_of_its_connection_and_no_other_is_taken_for_it() {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        // Another connection may leave from the same port for another one.
        let mut gone = row(1, &client);
        gone.server = Some("127.0.0.1:1".into());
        let now = Timestamp::UNIX_EPOCH;
        let mut status = Status {
            version: String::new(),
            started: now,
            now,
            left_out: Vec::new(),
            endpoints: Vec::new(),
            sessions: vec![gone, row(2, &client)],
            credentials: Vec::new(),
            errors: Vec::new(),
            memory: None,
        };
        find_processes(&mut status);
        let pids: Vec<_> = status.sessions.iter().map(|row| row.pid).collect();
        assert_eq!(pids, [None, Some(std::process::id())]);
    }
}
