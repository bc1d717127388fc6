//! The rules that decide which configured user a client is. They see whether the client gives a password,
//! but not the password itself.
//!
//! [`verdict`] collects the client's [`Claims`], finds the users of the endpoint to which these point
//! ([`Candidates`]), and asks [`RULES`] in their order. The first rule that has a verdict decides.

use std::sync::Arc;

use super::denied::MAX_NAME_SHOWN;
use super::{Peer, Proof, Reason};
use crate::config::{CertificateName, Endpoint, LocalAccount, User};
use q_ipc::handshake::Hello;

/// The decision of the rules about a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The client is this user. A password that it gave is not checked.
    Accept(Arc<User>),
    /// The client is this user if its password matches.
    CheckPassword(Arc<User>),
    /// The client is no user of the endpoint.
    Refuse(Reason),
}

/// The claims of a client, and the proofs that come with them.
#[derive(Debug, Clone, Copy)]
struct Claims<'c> {
    account: AccountClaim<'c>,
    /// The names in the client's verified certificate. `None` if the endpoint asks for no certificate.
    certificate: Option<&'c [CertificateName]>,
    /// The user whom hopen names. `None` also for a name that clients send by default, such as
    /// `anonymous`, if no password comes with it.
    user: Option<&'c str>,
    /// Whether hopen gives a password.
    has_password: bool,
}

/// The client's account, by the kernel's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AccountClaim<'c> {
    /// The account's number.
    Known(u32),
    /// A client of this host whose account the kernel does not tell.
    Unidentified { why: &'c str },
    /// A client of another host.
    OtherHost,
    /// The listener is exposed: accounts do not count there.
    Ignored,
}

/// The users of an endpoint to which the claims of a client point.
#[derive(Debug)]
struct Candidates<'e> {
    endpoint: &'e Endpoint,
    /// The user whom hopen names.
    named: Option<&'e Arc<User>>,
    /// The users with one of the certificate's names.
    certificate_owners: Vec<&'e Arc<User>>,
    /// The users with the client's account.
    account_owners: Vec<&'e Arc<User>>,
    /// Whether the certificate belongs to a user of the configuration who may not use the endpoint.
    is_certificate_of_user_elsewhere: bool,
}

/// A rule gives a verdict, or `None` if it does not apply to these claims. It may rely on the rules before
/// it: they had no verdict.
type Rule = fn(&Claims<'_>, &Candidates<'_>) -> Option<Verdict>;

/// The rules, in the order in which the daemon asks them. The first verdict counts.
/// [`no_claim_decides`] follows them, and [`refuse_user_left_out`] has the last word.
const RULES: [Rule; 13] = [
    // The client shows a certificate that belongs to a user. The account does not count then.
    certificate_of_named_user,
    certificate_of_other_user,
    certificate_owner_names_user_elsewhere,
    certificate_of_one_user,
    certificate_of_several_users,
    // hopen names a user of the endpoint.
    password_of_named_user,
    account_of_named_user,
    no_proof_for_named_user,
    // hopen names somebody else.
    unknown_name,
    // hopen names no user.
    account_owner_has_other_certificate,
    account_of_one_user,
    account_of_several_users,
    password_without_user,
];

/// Applies the rules to a client.
pub(super) fn verdict(endpoint: &Endpoint, proof: &Proof<'_>, hello: &Hello) -> Verdict {
    let claims = Claims::collect(endpoint, proof, hello);
    let candidates = Candidates::find(endpoint, &claims);
    let verdict = RULES.iter().find_map(|rule| rule(&claims, &candidates));
    refuse_user_left_out(verdict.unwrap_or_else(|| no_claim_decides(&claims)))
}

impl<'c> Claims<'c> {
    fn collect(endpoint: &Endpoint, proof: &Proof<'c>, hello: &'c Hello) -> Self {
        let has_password = !hello.password.is_empty();
        let mut default_names = endpoint.default_user_names.iter();
        let is_default = !has_password && default_names.any(|name| *name == hello.user);
        let user = Some(hello.user.as_str());
        Self {
            account: AccountClaim::of(proof),
            certificate: proof.certificate,
            user: user.filter(|user| !user.is_empty() && !is_default),
            has_password,
        }
    }

    fn is_certificate_of(&self, user: &User) -> bool {
        let own = user.certificate.as_ref();
        own.is_some_and(|own| self.certificate.is_some_and(|names| names.contains(own)))
    }

    fn is_account_of(&self, user: &User) -> bool {
        let AccountClaim::Known(uid) = self.account else {
            return false;
        };
        user.os_user.as_ref().and_then(LocalAccount::uid) == Some(uid)
    }

    /// The verdict for a user whom the certificate or the account vouches for. A password is checked if
    /// the user has one and hopen gives one.
    fn vouched_for(&self, user: &Arc<User>) -> Verdict {
        if user.password.is_some() && self.has_password {
            Verdict::CheckPassword(Arc::clone(user))
        } else {
            Verdict::Accept(Arc::clone(user))
        }
    }
}

impl<'c> AccountClaim<'c> {
    fn of(proof: &Proof<'c>) -> Self {
        match proof.peer {
            _ if proof.exposed => Self::Ignored,
            Peer::Local { uid, .. } => Self::Known(*uid),
            Peer::Remote { .. } => Self::OtherHost,
            Peer::Unidentified { reason, .. } => Self::Unidentified { why: reason },
        }
    }
}

impl<'e> Candidates<'e> {
    fn find(endpoint: &'e Endpoint, claims: &Claims<'_>) -> Self {
        let users = &endpoint.users;
        let names = claims.certificate.unwrap_or_default();
        let mut elsewhere = endpoint.other_certificates.iter();
        Self {
            endpoint,
            named: claims
                .user
                .and_then(|name| users.iter().find(|user| user.name == name)),
            certificate_owners: users
                .iter()
                .filter(|user| claims.is_certificate_of(user))
                .collect(),
            account_owners: users
                .iter()
                .filter(|user| claims.is_account_of(user))
                .collect(),
            is_certificate_of_user_elsewhere: elsewhere.any(|other| names.contains(other)),
        }
    }
}

/// hopen names a user, and the certificate is that user's.
fn certificate_of_named_user(claims: &Claims<'_>, found: &Candidates<'_>) -> Option<Verdict> {
    let user = found.named?;
    claims
        .is_certificate_of(user)
        .then(|| claims.vouched_for(user))
}

/// hopen names a user, and the certificate is another user's, or the user has another certificate. The
/// right password does not make up for the wrong certificate.
fn certificate_of_other_user(claims: &Claims<'_>, found: &Candidates<'_>) -> Option<Verdict> {
    let (names, user) = (claims.certificate?, found.named?);
    let is_other = user.certificate.is_some()
        || !found.certificate_owners.is_empty()
        || found.is_certificate_of_user_elsewhere;
    is_other.then(|| other_certificate(&user.name, names))
}

/// The certificate is a user's, and hopen names a user of the configuration who may not use the
/// endpoint.
fn certificate_owner_names_user_elsewhere(
    claims: &Claims<'_>,
    found: &Candidates<'_>,
) -> Option<Verdict> {
    let (names, user) = (claims.certificate?, claims.user?);
    let mut elsewhere = found.endpoint.other_user_names.iter();
    let applies = found.named.is_none()
        && !found.certificate_owners.is_empty()
        && elsewhere.any(|name| name == user);
    applies.then(|| other_certificate(user, names))
}

/// The certificate is one user's, and hopen names no user of the endpoint. hopen may give a name that is no
/// user's if it gives no password, because q sends the name of its account by default.
fn certificate_of_one_user(claims: &Claims<'_>, found: &Candidates<'_>) -> Option<Verdict> {
    match found.certificate_owners[..] {
        [user] if only_certificate_identifies(claims, found) => Some(claims.vouched_for(user)),
        _ => None,
    }
}

/// The certificate is several users', and hopen names none of them.
fn certificate_of_several_users(claims: &Claims<'_>, found: &Candidates<'_>) -> Option<Verdict> {
    let owners = &found.certificate_owners;
    let applies = owners.len() > 1 && only_certificate_identifies(claims, found);
    applies.then(|| ambiguous(owners))
}

/// hopen names a user who has a password, and gives one.
fn password_of_named_user(claims: &Claims<'_>, found: &Candidates<'_>) -> Option<Verdict> {
    let user = found.named?;
    let applies = user.password.is_some() && claims.has_password;
    applies.then(|| Verdict::CheckPassword(Arc::clone(user)))
}

/// hopen names a user, and the account is that user's.
fn account_of_named_user(claims: &Claims<'_>, found: &Candidates<'_>) -> Option<Verdict> {
    let user = found.named?;
    let applies = claims.is_account_of(user);
    applies.then(|| Verdict::Accept(Arc::clone(user)))
}

/// hopen names a user, and neither a password nor the account vouches for it.
fn no_proof_for_named_user(claims: &Claims<'_>, found: &Candidates<'_>) -> Option<Verdict> {
    let user = found.named?;
    let name = user.name.clone();
    let account = None;
    Some(Verdict::Refuse(match (&user.password, claims.account) {
        (Some(_), _) => Reason::PasswordMissing {
            user: name,
            account,
        },
        (None, AccountClaim::Ignored) => Reason::NoPassword { user: name },
        (None, _) => Reason::OtherAccount {
            user: name,
            account,
        },
    }))
}

/// hopen names somebody who is no user of the endpoint.
///
/// The rule does not apply to the name of the client's account if hopen gives no password: q sends that
/// name, `.z.u`, when hopen is given no user. The rules that follow then decide by the account's number.
fn unknown_name(claims: &Claims<'_>, found: &Candidates<'_>) -> Option<Verdict> {
    let name = claims.user.filter(|_| found.named.is_none())?;
    let is_account_name = |user: &&Arc<User>| {
        let account = user.os_user.as_ref().and_then(LocalAccount::resolved);
        account.is_some_and(|account| account.name == name)
    };
    if !claims.has_password && found.account_owners.iter().any(is_account_name) {
        return None;
    }
    let user = name.chars().take(MAX_NAME_SHOWN).collect();
    let mut left_out = found.endpoint.users_left_out.iter();
    Some(Verdict::Refuse(if left_out.any(|other| other == name) {
        Reason::LeftOut { user }
    } else {
        Reason::UnknownUser { user }
    }))
}

/// hopen names no user, and the account is one user's. The client shows a certificate of another user, or
/// that user has a certificate and the client does not show it.
fn account_owner_has_other_certificate(
    claims: &Claims<'_>,
    found: &Candidates<'_>,
) -> Option<Verdict> {
    let names = claims.certificate?;
    match found.account_owners[..] {
        [user] if user.certificate.is_some() || found.is_certificate_of_user_elsewhere => {
            Some(other_certificate(&user.name, names))
        }
        _ => None,
    }
}

/// hopen names no user, and the account is one user's.
fn account_of_one_user(claims: &Claims<'_>, found: &Candidates<'_>) -> Option<Verdict> {
    match found.account_owners[..] {
        [user] => Some(claims.vouched_for(user)),
        _ => None,
    }
}

/// hopen names no user, and the account is several users'.
fn account_of_several_users(_: &Claims<'_>, found: &Candidates<'_>) -> Option<Verdict> {
    let owners = &found.account_owners;
    (owners.len() > 1).then(|| ambiguous(owners))
}

/// hopen gives a password and names no user, and the account is no user's.
fn password_without_user(claims: &Claims<'_>, _: &Candidates<'_>) -> Option<Verdict> {
    claims
        .has_password
        .then_some(Verdict::Refuse(Reason::UserMissing))
}

/// hopen gives neither user nor password, and neither the certificate nor the account is a user's.
fn no_claim_decides(claims: &Claims<'_>) -> Verdict {
    Verdict::Refuse(match (claims.account, claims.certificate) {
        (AccountClaim::Known(_), _) => Reason::AccountNotAllowed { account: None },
        (AccountClaim::Unidentified { why }, _) => Reason::PeerUnknown {
            why: why.to_owned(),
        },
        (AccountClaim::OtherHost | AccountClaim::Ignored, Some(names)) => {
            Reason::CertificateUnknown {
                names: names.to_vec(),
            }
        }
        (AccountClaim::OtherHost | AccountClaim::Ignored, None) => Reason::PasswordOnly,
    })
}

/// Refuses a user whose account the account database does not know yet. The user is left out as a whole:
/// no certificate and no password replaces the account.
fn refuse_user_left_out(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Accept(user) | Verdict::CheckPassword(user) if user.awaits_account() => {
            Verdict::Refuse(Reason::AccountUnknown {
                user: user.name.clone(),
            })
        }
        verdict => verdict,
    }
}

/// Whether only the certificate can identify the user: hopen names no user, or it names somebody who is no
/// user of the endpoint and gives no password.
fn only_certificate_identifies(claims: &Claims<'_>, found: &Candidates<'_>) -> bool {
    claims.user.is_none() || (found.named.is_none() && !claims.has_password)
}

fn other_certificate(user: &str, names: &[CertificateName]) -> Verdict {
    Verdict::Refuse(Reason::OtherCertificate {
        user: user.to_owned(),
        names: names.to_vec(),
    })
}

fn ambiguous(users: &[&Arc<User>]) -> Verdict {
    Verdict::Refuse(Reason::Ambiguous {
        names: users.iter().map(|user| user.name.clone()).collect(),
    })
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
