//! Runs a program that prints a login, so that hopend needs no code for Vault, Secrets Manager or a
//! token service.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{Credential, FetchError, Retry};
use crate::config::{LoginCommand, LoginValue, LoginVariable};
use base::error::ErrorKind;
use base::file_access;
use finspace::connection_string::ConnectionString;
use secret::Secret;

/// The longest run of a program. The daemon kills a program that runs longer.
const TIME_LIMIT: Duration = Duration::from_secs(20);
/// The most bytes that the daemon reads of a program's output.
const OUTPUT_LIMIT: usize = 64 * 1024;

/// A login that a program prints as JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PrintedLogin {
    #[serde(default, deserialize_with = "wiped")]
    connection_string: Option<Zeroizing<String>>,
    user: Option<String>,
    #[serde(default, deserialize_with = "wiped")]
    password: Option<Zeroizing<String>>,
    expires: Option<String>,
}

/// Deserializes a text into a value that is wiped from memory when it is dropped.
fn wiped<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Zeroizing<String>>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    Ok(text.map(Zeroizing::new))
}

/// Runs the program and reads the login that it prints: a connection string, or a JSON object. The
/// object has `connection_string`, or `user` and `password`. The object may also have `expires` (RFC
/// 3339).
///
/// The variables `HOPEND_ENDPOINT` and `HOPEND_USER` hold the names of the endpoint and the local user.
/// The program writes to the standard error of the daemon. The daemon never logs the output of the
/// program.
///
/// # Errors
/// The program cannot be run, fails, takes too long, or prints no login.
pub(crate) async fn run(
    login: &LoginCommand,
    endpoint: &str,
    local_user: &str,
) -> Result<Credential, FetchError> {
    let Some((program, arguments)) = login.argv.split_first() else {
        return Err(failed("login.command is empty", Retry::Refused));
    };
    let mut command = Command::new(program);
    command.args(arguments);
    let output = timeout(TIME_LIMIT, async {
        for LoginVariable { name, value } in &login.env {
            let value = value_of(name, value).await?;
            command.env(name, OsStr::from_bytes(value.expose()));
        }
        command
            .env("HOPEND_ENDPOINT", endpoint)
            .env("HOPEND_USER", local_user);
        output_of(program, &mut command).await
    })
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
    parse(output.expose()).map_err(|why| {
        failed(
            &format!("what {program} printed is no login: {why}"),
            Retry::Refused,
        )
    })
}

/// The value of a variable: a text of the configuration, or the first line of a file.
async fn value_of(name: &str, value: &LoginValue) -> Result<Secret, FetchError> {
    let path = match value {
        LoginValue::Text(text) => return Ok(text.clone()),
        LoginValue::File(path) => path,
    };
    let file = path.clone();
    let read = spawn_blocking(move || file_access::read_secret(&file)).await;
    let bytes = read.map_err(io::Error::other).flatten().map_err(|error| {
        let (what, remedy) = match file_access::access_error(&error) {
            Some(exposed) => (exposed.message(), exposed.remedy()),
            None => (
                format!("{} can't be read: {error}", path.display()),
                format!("let the account that runs hopend read {}", path.display()),
            ),
        };
        FetchError {
            kind: ErrorKind::Configuration,
            retry: Retry::Soon,
            message: format!("variable {name} of the login command: {what}"),
            remedy,
        }
    })?;
    let line = bytes
        .expose()
        .split(|byte| matches!(byte, b'\r' | b'\n'))
        .next();
    let line = line.unwrap_or_default();
    if line.contains(&0) {
        return Err(failed(
            &format!("{} for {name} holds a NUL", path.display()),
            Retry::Refused,
        ));
    }
    Ok(Secret::new(line))
}

async fn output_of(program: &str, command: &mut Command) -> Result<Secret, FetchError> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(&format!("{program} can't be run: {error}"), Retry::Refused))?;
    // The vector is allocated at its full size, because a vector that grows leaves copies of the secret
    // in memory.
    let mut printed = Zeroizing::new(Vec::with_capacity(OUTPUT_LIMIT + 1));
    if let Some(stdout) = child.stdout.take() {
        stdout
            .take(OUTPUT_LIMIT as u64)
            .read_to_end(&mut printed)
            .await
            .map_err(|error| failed(&format!("{program}: {error}"), Retry::Soon))?;
    }
    let printed = Secret::new(&printed[..]);
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

/// Reads a login. An error describes the fault and its position, but never shows the text, because the
/// text is a secret.
fn parse(printed: &[u8]) -> Result<Credential, String> {
    let text = std::str::from_utf8(printed)
        .map_err(|_| "it is not UTF-8".to_owned())?
        .trim();
    if !text.starts_with('{') {
        let string = ConnectionString::parse(text).map_err(|error| error.to_string())?;
        return Ok(from_string(string, None));
    }
    let login: PrintedLogin = serde_json::from_str(text).map_err(|error| {
        format!(
            "broken JSON, or an unknown member, at column {}",
            error.column()
        )
    })?;
    let expires = login
        .expires
        .map(|text| text.parse::<Timestamp>())
        .transpose()
        .map_err(|_| "expires is no RFC 3339 time stamp".to_owned())?
        .map(SystemTime::from);
    match (login.connection_string, login.user, login.password) {
        (Some(text), None, None) => {
            let string = ConnectionString::parse(&text).map_err(|error| error.to_string())?;
            Ok(from_string(string, expires))
        }
        (None, Some(user), Some(password)) => Ok(Credential {
            address: None,
            user,
            password: Secret::from(password.as_str()),
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
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    async fn shell(script: &str) -> Result<Credential, FetchError> {
        shell_with(script, Vec::new()).await
    }

    async fn shell_with(script: &str, env: Vec<LoginVariable>) -> Result<Credential, FetchError> {
        let argv = ["/bin/sh", "-c", script].map(String::from).to_vec();
        run(&LoginCommand { argv, env }, "rdb", "alice").await
    }

    fn variable(name: &str, value: LoginValue) -> LoginVariable {
        LoginVariable {
            name: name.into(),
            value,
        }
    }

    #[tokio::test]
    async fn variables_come_from_the_configuration_and_from_files_as_they_are_now() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let env = || {
            let text = LoginValue::Text("svc".into());
            let file = LoginValue::File(path.clone());
            vec![variable("NAME", text), variable("TOKEN", file)]
        };
        let script = "echo \":h:1:$NAME:$TOKEN\"";
        let missing = shell_with(script, env()).await.unwrap_err();
        assert_eq!(missing.kind, ErrorKind::Configuration);
        let closed = std::fs::Permissions::from_mode(0o600);
        for token in ["first", "second"] {
            std::fs::write(&path, format!("{token}\nanother line\n")).unwrap();
            std::fs::set_permissions(&path, closed.clone()).unwrap();
            let printed = shell_with(script, env()).await.unwrap();
            assert_eq!((&*printed.user, printed.password), ("svc", token.into()));
        }
        std::fs::write(&path, "ge\0heim").unwrap();
        let error = shell_with(script, env()).await.unwrap_err();
        assert!(error.message.contains("holds a NUL"), "{error}");
        assert!(!format!("{:?}", env()).contains("svc"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o604)).unwrap();
        let exposed = shell_with(script, env()).await.unwrap_err();
        let open = "variable TOKEN of the login command: ";
        assert!(exposed.message.starts_with(open), "{exposed}");
        assert!(
            exposed.message.contains("open to every account"),
            "{exposed}"
        );
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
        let login = LoginCommand {
            argv: vec!["/nonexistent/login".into()],
            env: Vec::new(),
        };
        let missing = run(&login, "rdb", "alice").await;
        assert!(missing.unwrap_err().message.contains("can't be run"));
    }
}
