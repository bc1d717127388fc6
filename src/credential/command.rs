//! A program that prints a login: so Vault, Secrets Manager or a token service need no code here.

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::{Credential, FetchError, Retry};
use crate::connection_string::ConnectionString;
use crate::error::ErrorKind;
use crate::secret::Secret;

/// A program that runs longer is ended.
const TIME_LIMIT: Duration = Duration::from_secs(20);
/// Bytes of output that are read at the most.
const OUTPUT_LIMIT: u64 = 64 * 1024;

/// The JSON form of the output.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Output {
    connection_string: Option<String>,
    user: Option<String>,
    password: Option<String>,
    expires: Option<String>,
}

/// Runs the program, telling it endpoint and local user in `HOPEND_ENDPOINT` and `HOPEND_USER`, and
/// reads its login: one connection string, or a JSON object with `connection_string` or `user` and
/// `password`, and `expires` (RFC 3339).
///
/// Its standard error is the daemon's own. Nothing that it prints is logged.
pub async fn run(
    argv: &[String],
    endpoint: &str,
    local_user: &str,
) -> Result<Credential, FetchError> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err(failed("login.command is empty", Retry::Refused));
    };
    let output = timeout(
        TIME_LIMIT,
        output_of(program, arguments, endpoint, local_user),
    )
    .await;
    let output = output.unwrap_or_else(|_| {
        Err(failed(
            &format!(
                "{program} printed no login within {} s",
                TIME_LIMIT.as_secs()
            ),
            Retry::Soon,
        ))
    })?;
    read(output.expose()).map_err(|why| {
        failed(
            &format!("what {program} printed is no login: {why}"),
            Retry::Refused,
        )
    })
}

async fn output_of(
    program: &str,
    arguments: &[String],
    endpoint: &str,
    local_user: &str,
) -> Result<Secret, FetchError> {
    let mut child = Command::new(program)
        .args(arguments)
        .env("HOPEND_ENDPOINT", endpoint)
        .env("HOPEND_USER", local_user)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(&format!("{program} can't be run: {error}"), Retry::Refused))?;
    let mut printed = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(OUTPUT_LIMIT)
            .read_to_end(&mut printed)
            .await
            .map_err(|error| failed(&format!("{program}: {error}"), Retry::Soon))?;
    }
    let printed = Secret::new(printed);
    let status = child
        .wait()
        .await
        .map_err(|error| failed(&format!("{program}: {error}"), Retry::Soon))?;
    if status.success() {
        Ok(printed)
    } else {
        Err(failed(
            &format!("{program} ended with {status}"),
            Retry::Soon,
        ))
    }
}

/// What is wrong is told by place and kind, as the text itself is a secret.
fn read(printed: &[u8]) -> Result<Credential, String> {
    let text = std::str::from_utf8(printed)
        .map_err(|_| "it is not UTF-8".to_owned())?
        .trim();
    if !text.starts_with('{') {
        let string = ConnectionString::parse(text).map_err(|error| error.to_string())?;
        return Ok(from_string(string, None));
    }
    let output: Output = serde_json::from_str(text).map_err(|error| {
        format!(
            "broken JSON, or an unknown member, at column {}",
            error.column()
        )
    })?;
    let expires = output
        .expires
        .map(|text| text.parse::<Timestamp>())
        .transpose()
        .map_err(|_| "expires is no RFC 3339 time stamp".to_owned())?
        .map(SystemTime::from);
    match (output.connection_string, output.user, output.password) {
        (Some(text), None, None) => {
            let string = ConnectionString::parse(&text).map_err(|error| error.to_string())?;
            Ok(from_string(string, expires))
        }
        (None, Some(user), Some(password)) => Ok(Credential {
            address: None,
            user,
            password: password.into(),
            expires,
            valid_for: None,
            issuer_time: None,
        }),
        _ => Err("the object needs connection_string, or user and password".into()),
    }
}

fn from_string(string: ConnectionString, expires: Option<SystemTime>) -> Credential {
    let expires = [expires, string.expires()].into_iter().flatten().min();
    let valid_for = string.valid_for();
    Credential {
        address: Some(string.address),
        user: string.user,
        password: string.password,
        expires,
        valid_for,
        issuer_time: None,
    }
}

fn failed(message: &str, retry: Retry) -> FetchError {
    FetchError {
        kind: ErrorKind::ControlPlane,
        retry,
        message: format!("login.command: {message}"),
        remedy: "run it by hand as the account of the daemon: it prints one connection string, or \
                 JSON with connection_string or user and password, and expires"
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str) -> Result<Credential, FetchError> {
        let argv = ["/bin/sh", "-c", script].map(String::from);
        run(&argv, "rdb", "alice").await
    }

    #[tokio::test]
    async fn the_forms_that_are_read() {
        let plain = shell("echo :tcps://h:1:svc:a:b").await.unwrap();
        assert_eq!((plain.user.as_str(), plain.password), ("svc", "a:b".into()));
        let told = shell(r#"echo "{\"user\":\"$HOPEND_USER@$HOPEND_ENDPOINT\",\"password\":\"p\",\"expires\":\"2030-01-01T00:00:00Z\"}""#)
            .await
            .unwrap();
        assert_eq!(told.user, "alice@rdb");
        assert_eq!(
            told.expires,
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000))
        );
        let string = shell(r#"echo '{"connection_string":":h:1:u:p"}'"#)
            .await
            .unwrap();
        assert_eq!(string.address.unwrap().port, 1);
    }

    #[tokio::test]
    async fn failures_say_what_and_never_show_the_output() {
        for (script, said) in [
            ("exit 3", "exit status: 3"),
            ("echo geheim", "does not begin with"),
            (r#"echo '{"user":"u","secret":"geheim"}'"#, "column"),
            (r#"echo '{"user":"u"}'"#, "needs connection_string"),
            (
                r#"echo '{"user":"u","password":"geheim","expires":"soon"}'"#,
                "RFC 3339",
            ),
        ] {
            let error = shell(script).await.unwrap_err();
            assert!(error.message.contains(said), "{error}");
            assert!(!error.to_string().contains("geheim"), "{error}");
        }
        let missing = run(&["/nonexistent/login".into()], "rdb", "alice").await;
        assert!(missing.unwrap_err().message.contains("can't be run"));
    }
}
