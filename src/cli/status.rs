//! `hopend status`.

use std::path::Path;
use std::time::Duration;

use super::failure::CommandFailure;
use super::screen::{ScreenView, Watchable};
use super::{ConfigArgument, Exit, daemon, overview, screen};
use crate::config::ListenAddress;
use crate::identity::{holder, process};
use crate::primitives::kernel_sockets::FourTuple;
use crate::surface::control::{ControlRequest, ControlResponse};
use crate::telemetry::status::{SessionRow, Status};

/// The interval of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Arguments of `hopend status`.
///
/// Asks the running daemon over its control socket. Only root and the daemon's own account may do so. Only
/// root sees the processes of TCP clients that belong to other accounts.
#[derive(Debug, clap::Args)]
pub(super) struct StatusArguments {
    #[command(flatten)]
    config: ConfigArgument,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Update the status each second, until q or Ctrl-C. On a terminal the arrows, PgUp and PgDn scroll,
    /// and s changes the order of the sessions
    #[arg(long)]
    watch: bool,
}

/// The output of one update.
enum StatusOutput {
    /// Tables.
    Tables(Box<Status>),
    /// JSON, or the message of a failure.
    Text(String),
}

impl From<String> for StatusOutput {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl Watchable for StatusOutput {
    fn text(&self) -> String {
        match self {
            Self::Tables(status) => overview::text(status),
            Self::Text(text) => text.clone(),
        }
    }

    fn lines(&self, view: ScreenView) -> Vec<String> {
        match self {
            Self::Tables(status) => overview::lines(status, view),
            Self::Text(text) => text.lines(view),
        }
    }
}

pub(super) fn run(arguments: &StatusArguments) -> Exit {
    let control = match daemon::control_socket(&arguments.config.config) {
        Ok(control) => control,
        Err(exit) => return exit,
    };
    let update = || {
        let status = fetch_status(&control)?;
        Ok(if arguments.json {
            let json = serde_json::to_string(&status);
            StatusOutput::Text(json.unwrap_or_else(|error| error.to_string()))
        } else {
            StatusOutput::Tables(Box::new(status))
        })
    };
    let interval = arguments.watch.then_some(WATCH_INTERVAL);
    match screen::print(interval, update) {
        Ok(()) => Exit::Ok,
        Err(failure) => failure.report(),
    }
}

fn fetch_status(control: &Path) -> Result<Status, CommandFailure> {
    match daemon::send(control, &ControlRequest::Status)? {
        ControlResponse::Status(mut status) => {
            find_processes(&mut status);
            find_holders(&mut status);
            Ok(*status)
        }
        other => Err(CommandFailure {
            exit: Exit::Software,
            message: format!("the daemon sent an unexpected answer: {other:?}"),
        }),
    }
}

/// Adds the processes of TCP clients. The kernel does not show the daemon the processes of other accounts,
/// but it shows them to root.
fn find_processes(status: &mut Status) {
    let socket_pair = |row: &SessionRow| {
        let client = row.client.parse().ok()?;
        Some(FourTuple::new(client, row.server.as_deref()?.parse().ok()?))
    };
    let unknown = status.sessions.iter_mut().filter(|row| row.pid.is_none());
    let unknown: Vec<_> = unknown
        .filter_map(|row| Some((socket_pair(row)?, row)))
        .collect();
    let processes = process::of_clients(unknown.iter().map(|(sockets, _)| *sockets));
    for (sockets, row) in unknown {
        row.pid = processes.get(&sockets).copied();
        row.program = row.pid.and_then(process::program);
    }
}

/// Adds the processes that listen at local addresses in hopend's stead.
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

    /// The row names no address of the endpoint: that may listen on all addresses, or a reload has removed it.
    #[test]
    fn a_process_is_found_by_both_ends_of_its_connection_and_no_other_is_taken_for_it() {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        // Another connection may use the same local port with another remote address.
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
