//! The stages that every target has: network paths and logins, for one endpoint.

use super::handshake::{PathAddress, TrustStore};
use super::path::{self, ExaminedPaths, LOGIN_STAGES, LoginRejection};
use super::runner::{StageFailure, StageFinding, StageRunner};
use super::stage::{StageName, StageSubject};
use crate::config::{Endpoint, User};
use crate::credential::Credential;
use base::error::ErrorKind;
use base::kdb_address::KdbAddress;
use q_ipc::handshake::Hello;

/// The capability that hopend announces to kdb+. It excludes answers of over 2 GB, which the doctor does
/// not request.
const CAPABILITY: u8 = 3;

/// Examines network paths and logins for one endpoint.
pub(super) struct TargetStages<'a, 'b> {
    pub(super) runner: &'a mut StageRunner<'b>,
    pub(super) endpoint: &'a Endpoint,
    trust: TrustStore,
    paths: ExaminedPaths,
}

/// A login to make at an address.
#[derive(Clone, Copy)]
pub(super) struct ExaminedLogin<'a> {
    pub(super) address: &'a KdbAddress,
    /// Whether the address stands in the configuration; see [`PathAddress::is_configured`].
    pub(super) is_configured: bool,
    /// Whether the credential may be sent without TLS.
    pub(super) plaintext_allowed: bool,
    pub(super) credential: &'a Credential,
}

impl<'a, 'b> TargetStages<'a, 'b> {
    /// `config_table` is the part of the configuration whose `ca_file` counts.
    pub(super) async fn new(
        runner: &'a mut StageRunner<'b>,
        endpoint: &'a Endpoint,
        config_table: String,
    ) -> Self {
        let ca_file = endpoint.ca_file().map(Into::into);
        Self {
            runner,
            endpoint,
            trust: TrustStore::load(ca_file, config_table).await,
            paths: ExaminedPaths::default(),
        }
    }

    /// Sets the subject of the stages that follow.
    pub(super) fn set_subject(&mut self, user: Option<&User>, address: Option<String>) {
        self.runner.subject = StageSubject {
            environment: None,
            endpoint: Some(self.endpoint.name.clone()),
            user: user.map(|user| user.name.clone()),
            address,
        };
    }

    /// Runs the stages DNS, TCP and TLS for an address of the configuration.
    pub(super) async fn examine_path(&mut self, address: &KdbAddress) {
        let to = PathAddress {
            address,
            is_configured: true,
            trust: &self.trust,
        };
        // A login to this address looks the result up.
        let _ = self.paths.examine(self.runner, to).await;
    }

    /// Examines the network path, logs in and sends one request. If kdb+ rejects the login, `rejection`
    /// supplies remedy and details.
    pub(super) async fn log_in(
        &mut self,
        attempt: ExaminedLogin<'_>,
        rejection: impl FnOnce() -> LoginRejection,
    ) {
        let to = PathAddress {
            address: attempt.address,
            is_configured: attempt.is_configured,
            trust: &self.trust,
        };
        if let Err(failed) = self.paths.examine(self.runner, to).await {
            return self.runner.skip_after(failed, &LOGIN_STAGES);
        }
        if !to.address.tls && !attempt.plaintext_allowed {
            let refuse = async {
                Err::<StageFinding<()>, _>(StageFailure::new(
                    ErrorKind::Configuration,
                    "the connection string is without TLS: the login would be sent in plain text",
                    "set plaintext = true on the endpoint if that is intended",
                ))
            };
            self.runner.run(StageName::Login, refuse).await;
            return self.runner.skip_after(StageName::Login, &[StageName::NoOp]);
        }
        let hello = Hello {
            user: attempt.credential.user.clone(),
            password: attempt.credential.password.clone(),
            capability: Some(CAPABILITY),
        };
        Box::pin(path::log_in(self.runner, to, &hello, rejection)).await;
    }
}
