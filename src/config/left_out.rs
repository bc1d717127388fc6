//! Parts of the configuration that can't be served, while the rest is.

use std::fmt;
use std::sync::Arc;

use super::account::LocalAccount;
use super::problem::Problems;
use super::{Config, Endpoint, ListenAddress};

/// A table of the file, or a name in it, that can be left out without the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub kind: PartKind,
    /// What the file calls it; empty where the name is missing or is not valid.
    pub name: String,
    /// The line of its table or value, from 1.
    pub line: usize,
}

/// What a [`Part`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartKind {
    /// `[environment.NAME]`. The endpoints that use it are left out with it.
    Environment,
    /// `[[user]]`. Its endpoints serve their other users.
    User,
    /// `[[endpoint]]`.
    Endpoint,
    /// An account in `viewers` of `[daemon]`.
    Viewer,
}

/// What can't be served because of a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Nothing: the daemon does not start, and a reload changes nothing.
    Daemon,
    /// These parts, until the file is mended and loaded again.
    Parts(Vec<Part>),
    /// A user whose password has been taken away: the user's live sessions end as well.
    Proof(Part),
    /// A user or viewer whose account does not resolve, until it does.
    Account(Part, LocalAccount),
}

impl Reach {
    /// The parts, if it is not the daemon as a whole.
    pub fn parts(&self) -> &[Part] {
        match self {
            Self::Daemon => &[],
            Self::Parts(parts) => parts,
            Self::Proof(part) | Self::Account(part, _) => std::slice::from_ref(part),
        }
    }

    /// Whether the part is unusable as it stands in the file.
    pub(super) fn breaks(&self, part: &Part) -> bool {
        match self {
            Self::Daemon | Self::Account(..) => false,
            Self::Parts(parts) => parts.iter().any(|broken| broken.is_same(part)),
            Self::Proof(broken) => broken.is_same(part),
        }
    }
}

/// A part that is not served, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Which one.
    pub part: Part,
    /// Why, and until when.
    pub cause: LeftOutCause,
    /// What is wrong and what to do, as `hopend check` prints it.
    pub reason: String,
}

/// Why a part is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeftOutCause {
    /// The file is wrong there, until it is mended and loaded again.
    Broken,
    /// The same, and the endpoint goes on as it was before the file was loaded.
    Kept,
    /// The user's password has been taken away.
    ProofGone,
    /// The account does not resolve; hopend goes on asking.
    AccountUnknown(LocalAccount),
}

impl LeftOutCause {
    /// One word for a program.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Kept => "kept",
            Self::ProofGone => "proof_gone",
            Self::AccountUnknown(_) => "account_unknown",
        }
    }
}

/// A configuration as far as it can be served.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Everything that is valid. Users whose account does not resolve are in it, and not admitted
    /// until it does.
    pub config: Config,
    /// Everything else, in the order of the file.
    pub left_out: Vec<LeftOut>,
    /// What `hopend check` prints, if anything is wrong.
    pub problems: Option<Problems>,
}

impl From<Config> for Loaded {
    fn from(config: Config) -> Self {
        Self {
            config,
            left_out: Vec::new(),
            problems: None,
        }
    }
}

impl Loaded {
    /// Why a part is not served; `None` for one that is, or that the file does not name.
    pub fn left_out(&self, kind: PartKind, name: &str) -> Option<&LeftOut> {
        let mut all = self.left_out.iter();
        all.find(|left_out| left_out.part.kind == kind && left_out.part.name == name)
    }

    /// Has each endpoint go on as it was that is left out and runs, unless another one has taken its
    /// address. Nobody keeps access by it: of its users those stay whom the file has and who are valid,
    /// as the file has them.
    pub fn keep_running(&mut self, running: &[Arc<Endpoint>]) {
        for left_out in &mut self.left_out {
            let part = &left_out.part;
            let named = |endpoint: &&Arc<Endpoint>| endpoint.name == part.name;
            let is_endpoint = part.kind == PartKind::Endpoint;
            let Some(old) = running.iter().find(named).filter(|_| is_endpoint) else {
                continue;
            };
            let others = self.config.endpoints.iter();
            let mut taken = others.flat_map(|endpoint| &endpoint.listen);
            let admin = self.config.daemon.admin.as_ref();
            let admin = admin.map(|admin| ListenAddress::Tcp(admin.address));
            let clashes = |theirs: &ListenAddress| old.listen.iter().any(|own| own.clashes(theirs));
            if taken.any(clashes) || admin.as_ref().is_some_and(clashes) {
                continue;
            }
            let names = old.users.iter().map(|user| &user.name);
            let names: Vec<&String> = names.chain(&old.users_left_out).collect();
            let users = self.config.users.iter();
            let mut kept = Endpoint::clone(old);
            kept.users = users
                .filter(|user| names.contains(&&user.name))
                .cloned()
                .collect();
            kept.users_left_out = names.into_iter().cloned().collect();
            kept.users_left_out
                .retain(|name| !kept.users.iter().any(|user| user.name == *name));
            kept.follow_users(&self.config.users);
            self.config.endpoints.push(Arc::new(kept));
            left_out.cause = LeftOutCause::Kept;
        }
    }
}

impl LeftOut {
    /// Whether it is over: the account resolves by now.
    pub fn is_over(&self) -> bool {
        matches!(&self.cause, LeftOutCause::AccountUnknown(account) if account.found().is_some())
    }
}

/// A part of the file that is left out because another one is.
#[derive(Debug)]
pub(super) struct Consequence {
    pub(super) part: Part,
    pub(super) of: Part,
}

/// Each part once, in the order of the file, with all reasons.
pub(super) fn collect(problems: Option<&Problems>, consequences: Vec<Consequence>) -> Vec<LeftOut> {
    let mut all: Vec<LeftOut> = Vec::new();
    let mut add = |part: &Part, cause: LeftOutCause, reason: String| {
        let Some(known) = all.iter_mut().find(|known| known.part.is_same(part)) else {
            let part = part.clone();
            return all.push(LeftOut {
                part,
                cause,
                reason,
            });
        };
        known.reason = format!("{} {reason}", known.reason);
        // What is broken stays out although its account may appear.
        if let (LeftOutCause::AccountUnknown(_), _) | (_, LeftOutCause::ProofGone) =
            (&known.cause, &cause)
        {
            known.cause = cause;
        }
    };
    for (problem, shown) in problems.into_iter().flat_map(Problems::lines) {
        let cause = match &problem.reach {
            Reach::Daemon => continue,
            Reach::Parts(_) => LeftOutCause::Broken,
            Reach::Proof(_) => LeftOutCause::ProofGone,
            Reach::Account(_, account) => LeftOutCause::AccountUnknown(account.clone()),
        };
        for part in problem.reach.parts() {
            add(part, cause.clone(), shown.clone());
        }
    }
    for Consequence { part, of } in consequences {
        add(&part, LeftOutCause::Broken, format!("{of} is left out."));
    }
    all.sort_by_key(|left_out| left_out.part.line);
    all
}

impl Part {
    /// Whether both are the same part. Two tables of one name are: nobody knows which of them is meant.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let same_name = if self.name.is_empty() || other.name.is_empty() {
            self.line == other.line
        } else {
            self.name == other.name
        };
        self.kind == other.kind && same_name
    }
}

impl PartKind {
    /// The key of its tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Environment => "environment",
            Self::User => "user",
            Self::Endpoint => "endpoint",
            Self::Viewer => "viewer",
        }
    }
}

/// `user "alice"`, or `user of line 6`.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.name();
        if self.name.is_empty() {
            write!(f, "{kind} of line {}", self.line)
        } else {
            write!(f, "{kind} {:?}", self.name)
        }
    }
}

/// `user "alice" is left out: reason`.
impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (part, reason) = (&self.part, &self.reason);
        match self.cause {
            LeftOutCause::Broken | LeftOutCause::ProofGone => {
                write!(f, "{part} is left out: {reason}")
            }
            LeftOutCause::Kept => write!(f, "{part} stays as it was: {reason}"),
            LeftOutCause::AccountUnknown(_) => write!(
                f,
                "{part} is left out until the account is known, and hopend goes on asking: {reason}"
            ),
        }
    }
}
