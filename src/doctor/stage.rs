//! Stages as data, and the bench on which one after the other is run under a deadline.

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::time::timeout;

use crate::credential::FetchError;
use base::error::{ErrorKind, without_fix};
use finspace::{AwsError, MissingPermission};

/// How much longer a stage may take than the calls in it, which have deadlines of their own.
pub(super) const MARGIN: Duration = Duration::from_secs(1);

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Name {
    /// The file.
    Configuration,
    /// `[daemon] audit`.
    AuditFile,
    /// GetCallerIdentity.
    BaseCredentials,
    /// This host's availability zone.
    Zone,
    /// GetKxUser.
    KxUser,
    /// AssumeRole.
    AssumeRole,
    /// A local address.
    Listen,
    /// The cluster, among those that there are.
    Cluster,
    /// ListKxClusterNodes.
    Nodes,
    /// `login.password_file`.
    PasswordFile,
    /// `login.command`.
    LoginCommand,
    /// GetKxConnectionString, or the same asked of a cluster for a node.
    ConnectionString,
    /// The host's name.
    Dns,
    /// A connection.
    Tcp,
    /// The handshake and the certificate.
    Tls,
    /// The q login.
    Login,
    /// A sync request that does nothing.
    NoOp,
    /// Everything that can't be looked at without a configuration.
    Rest,
}

/// How a stage ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Passed,
    /// It works, and something about it wants attention.
    Warned,
    /// It does not work; the side at fault.
    Failed(ErrorKind),
    /// It was not looked at.
    Skipped,
}

/// One stage, ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// What was looked at.
    pub name: Name,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
    /// What was found; never a secret.
    pub said: String,
    /// What to do.
    pub remedy: Option<String>,
    /// What a policy lacks.
    pub missing: Option<Box<MissingPermission>>,
}

/// What a stage is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// `[environment.NAME]`.
    pub environment: Option<String>,
    /// `[[endpoint]]`.
    pub endpoint: Option<String>,
    /// `[[user]]`.
    pub user: Option<String>,
    /// A node, or one of several addresses.
    pub place: Option<String>,
}

/// What happens, as it happens.
#[derive(Debug)]
pub enum Event<'e> {
    /// A stage begins.
    Begins(&'e Subject, Name),
    /// A stage has ended.
    Ended(&'e Subject, &'e Stage),
}

/// What a stage found where nothing failed.
#[derive(Debug)]
pub(super) struct Finding<T> {
    value: T,
    outcome: Outcome,
    said: String,
    remedy: Option<String>,
}

/// Why a stage failed.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) kind: ErrorKind,
    pub(super) said: String,
    pub(super) remedy: Option<String>,
    pub(super) missing: Option<Box<MissingPermission>>,
}

/// Where stages are run.
pub(super) struct Bench<'a> {
    /// The longest that one stage takes.
    pub(super) limit: Duration,
    pub(super) subject: Subject,
    tell: &'a mut (dyn FnMut(Event<'_>) + Send),
}

impl<'a> Bench<'a> {
    pub(super) fn new(limit: Duration, tell: &'a mut (dyn FnMut(Event<'_>) + Send)) -> Self {
        Self {
            limit,
            subject: Subject::default(),
            tell,
        }
    }

    /// Runs one stage; what it found, unless it failed.
    pub(super) async fn stage<T>(
        &mut self,
        name: Name,
        work: impl Future<Output = Result<Finding<T>, Trouble>>,
    ) -> Option<T> {
        self.stage_within(self.limit, name, work).await
    }

    /// A stage that calls AWS. The calls end within the limit and say why; the margin is for what is done
    /// before the first of them, such as reading the system's certificates.
    pub(super) async fn aws_stage<T>(
        &mut self,
        name: Name,
        work: impl Future<Output = Result<Finding<T>, Trouble>>,
    ) -> Option<T> {
        self.stage_within(self.limit + MARGIN, name, work).await
    }

    /// As [`Bench::stage`], with another deadline.
    pub(super) async fn stage_within<T>(
        &mut self,
        limit: Duration,
        name: Name,
        work: impl Future<Output = Result<Finding<T>, Trouble>>,
    ) -> Option<T> {
        (self.tell)(Event::Begins(&self.subject, name));
        let begun = Instant::now();
        let ended = timeout(limit, work).await.unwrap_or_else(|_| {
            Err(Trouble {
                kind: ErrorKind::Upstream,
                said: format!("nothing within {} s", limit.as_secs_f32()),
                remedy: name.remedy_of_silence().map(str::to_owned),
                missing: None,
            })
        });
        let took = begun.elapsed();
        let (stage, value) = match ended {
            Ok(found) => {
                let Finding {
                    value,
                    outcome,
                    said,
                    remedy,
                } = found;
                (Stage::new(name, outcome, took, said, remedy), Some(value))
            }
            Err(trouble) => {
                let outcome = Outcome::Failed(trouble.kind);
                let mut stage = Stage::new(name, outcome, took, trouble.said, trouble.remedy);
                stage.missing = trouble.missing;
                (stage, None)
            }
        };
        (self.tell)(Event::Ended(&self.subject, &stage));
        value
    }

    /// Leaves a stage out, and says why.
    pub(super) fn skip(&mut self, name: Name, why: impl Into<String>) {
        let stage = Stage::new(name, Outcome::Skipped, Duration::ZERO, why.into(), None);
        (self.tell)(Event::Ended(&self.subject, &stage));
    }

    /// Leaves stages out that need what another one did not give.
    pub(super) fn wait_for(&mut self, other: Name, names: &[Name]) {
        for &name in names {
            self.skip(name, format!("waits for {other}"));
        }
    }
}

impl Stage {
    fn new(
        name: Name,
        outcome: Outcome,
        took: Duration,
        said: String,
        remedy: Option<String>,
    ) -> Self {
        Self {
            name,
            outcome,
            took,
            said,
            remedy,
            missing: None,
        }
    }
}

impl<T> Finding<T> {
    pub(super) fn new(value: T, said: impl Into<String>) -> Self {
        Self {
            value,
            outcome: Outcome::Passed,
            said: said.into(),
            remedy: None,
        }
    }

    /// It works, and yet something should be done.
    pub(super) fn but(self, remedy: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Warned,
            remedy: Some(remedy.into()),
            ..self
        }
    }

    /// It could not be looked at, and that is no fault.
    pub(super) fn left_out(self) -> Self {
        Self {
            outcome: Outcome::Skipped,
            ..self
        }
    }
}

impl Trouble {
    /// A `remedy` takes the place of the one that `said` ends with.
    pub(super) fn new(kind: ErrorKind, said: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (said, remedy) = (said.into(), remedy.into());
        let (what, known) = without_fix(&said);
        let remedy = match &*remedy {
            "" => known.unwrap_or_default().to_owned(),
            _ => remedy,
        };
        Self {
            kind,
            said: what.to_owned(),
            remedy: Some(remedy),
            missing: None,
        }
    }
}

impl From<AwsError> for Trouble {
    fn from(error: AwsError) -> Self {
        let unfit = error.is_credential_fault && error.kind == ErrorKind::ControlPlane;
        Self {
            // Whom AWS does not know may do nothing there.
            kind: if unfit { ErrorKind::Denied } else { error.kind },
            said: error.message,
            remedy: Some(error.remedy),
            missing: error.missing,
        }
    }
}

impl From<FetchError> for Trouble {
    fn from(error: FetchError) -> Self {
        Self::new(error.kind, error.message, error.remedy)
    }
}

impl Name {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::AuditFile => "audit file",
            Self::BaseCredentials => "base credentials",
            Self::Zone => "zone",
            Self::KxUser => "GetKxUser",
            Self::AssumeRole => "AssumeRole",
            Self::Listen => "listen",
            Self::Cluster => "cluster",
            Self::Nodes => "nodes",
            Self::PasswordFile => "password file",
            Self::LoginCommand => "login command",
            Self::ConnectionString => "GetKxConnectionString",
            Self::Dns => "DNS",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Login => "login",
            Self::NoOp => "no-op",
            Self::Rest => "all else",
        }
    }

    /// What to do where the deadline passed without a word.
    fn remedy_of_silence(self) -> Option<&'static str> {
        Some(match self {
            Self::BaseCredentials
            | Self::KxUser
            | Self::AssumeRole
            | Self::Cluster
            | Self::Nodes
            | Self::ConnectionString => {
                "check the way from this host to AWS (VPC endpoint, proxy, DNS), endpoint_url and \
                 sts_endpoint_url; where credentials come from instance metadata, that it answers"
            }
            Self::Dns => "check the name servers in /etc/resolv.conf",
            Self::Tcp => {
                "allow the port in security groups, network ACLs, routes and firewalls, as packets get \
                 lost on the way"
            }
            Self::Tls | Self::Login => {
                "check what listens there, and whether kdb+ computes, as it answers nobody meanwhile"
            }
            Self::NoOp => {
                "look at the log and the load of kdb+: it has let it in and does not answer, as it \
                 computes for somebody else, or hangs"
            }
            Self::LoginCommand => {
                "run it by hand as the account of the daemon, and see what it waits for"
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A heading: `endpoint hdb, user alice`.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("environment ", &self.environment),
            ("endpoint ", &self.endpoint),
            ("user ", &self.user),
            ("", &self.place),
        ];
        let mut separator = "";
        for (what, value) in parts {
            if let Some(value) = value {
                write!(f, "{separator}{what}{value}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}
