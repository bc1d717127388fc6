//! Users and an endpoint for the tests of this module.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{
    AddressOrder, Endpoint, LocalAccount, Login, OnOpenFailure, OpensPerUser, OsUser,
    PasswordVerifier, Target, User, refusal_costs,
};

/// Accounts that are in no database.
pub(super) const BOB: u32 = 3_999_990_001;
pub(super) const ALICE: u32 = 3_999_990_002;
pub(super) const SVC: u32 = 3_999_990_050;

pub(super) fn user(name: &str, os_user: Option<(&str, u32)>, password: Option<&str>) -> Arc<User> {
    Arc::new(User {
        name: name.into(),
        os_user: os_user.map(|(name, uid)| {
            let account = OsUser {
                name: name.into(),
                uid,
            };
            LocalAccount::known(name, account)
        }),
        password: password.map(|plain| PasswordVerifier::Plain(plain.into())),
        kx_user: name.into(),
        role_arn: None,
        console: false,
        certificate: None,
        max_sessions: None,
        max_opens_per_second: None,
        idle_timeout: None,
        max_session_time: None,
    })
}

/// A user with a certificate.
pub(super) fn with_certificate(user: &Arc<User>, certificate: &str) -> Arc<User> {
    let mut user = User::clone(user);
    user.certificate = Some(certificate.parse().unwrap());
    Arc::new(user)
}

/// An endpoint of these users. User `gone` is left out; user `zoe` with certificate `CN=zoe` may use other
/// endpoints only.
pub(super) fn endpoint(users: &[Arc<User>]) -> Endpoint {
    Endpoint {
        name: "hdb".into(),
        listen: Vec::new(),
        expose: false,
        tls: None,
        users: users.to_vec(),
        users_left_out: vec!["gone".into()],
        refusal_costs: refusal_costs(users),
        default_user_names: vec!["unknown".into(), "anonymous".into()],
        other_certificates: vec!["CN=zoe".parse().unwrap()],
        other_user_names: vec!["zoe".into()],
        target: Target::Addresses {
            addresses: Vec::new(),
            policy: AddressOrder::Spread,
            login: Login::Client,
            ca_file: None,
            plaintext: false,
        },
        keepalive: q_relay::relay::KeepaliveSettings::Off,
        max_message: None,
        max_handshake: 4096,
        handshake_timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(5),
        max_sessions: 16,
        max_sessions_per_user: 16,
        max_opens_per_second: None,
        opens_per_user: OpensPerUser::Default,
        idle_timeout: None,
        max_session_time: None,
        errors: OnOpenFailure::Close,
        warm: 0,
    }
}
