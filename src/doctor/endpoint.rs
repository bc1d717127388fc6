//! One endpoint: its local addresses, then the stages of its target.

use super::addresses::AddressStages;
use super::aws::AwsStages;
use super::cluster::ClusterStages;
use super::listen::{self, DaemonAccount};
use super::options::DoctorOptions;
use super::runner::StageRunner;
use super::stage::{StageName, StageSubject};
use super::target::TargetStages;
use crate::config::{Endpoint, Target};

/// Examines one endpoint for the users that the options select.
pub(super) struct EndpointStages<'a, 'b> {
    pub(super) runner: &'a mut StageRunner<'b>,
    pub(super) aws: &'a AwsStages,
    pub(super) endpoint: &'a Endpoint,
    pub(super) options: &'a DoctorOptions,
    pub(super) daemon: DaemonAccount,
}

impl EndpointStages<'_, '_> {
    pub(super) async fn run(self) {
        let Self {
            runner,
            aws,
            endpoint,
            options,
            daemon,
        } = self;
        let users = options.selected_users(endpoint);
        runner.subject = StageSubject {
            endpoint: Some(endpoint.name.clone()),
            ..StageSubject::default()
        };
        for address in &endpoint.listen {
            let examination = listen::examine(address, daemon);
            runner.run(StageName::Listen, examination).await;
        }
        match &endpoint.target {
            Target::FinSpace {
                environment,
                cluster,
                node,
                node_via,
                plaintext,
            } => {
                let state = aws.check_cluster(runner, environment, cluster).await;
                let table = format!("[environment.{}]", environment.name);
                let mut stages = ClusterStages {
                    target: TargetStages::new(runner, endpoint, table).await,
                    aws,
                    environment,
                    cluster,
                    state,
                    node,
                    node_via: *node_via,
                    plaintext: *plaintext,
                };
                Box::pin(stages.run(&users)).await;
            }
            Target::Addresses {
                addresses,
                login,
                plaintext,
                ..
            } => {
                let table = format!("endpoint {:?}", endpoint.name);
                let mut stages = AddressStages {
                    target: TargetStages::new(runner, endpoint, table).await,
                    addresses,
                    login,
                    plaintext: *plaintext,
                    options,
                };
                Box::pin(stages.run(&users)).await;
            }
            Target::Console { .. } => {
                let reason = "a console: hopend itself answers, so there is no kdb+ to log in to";
                runner.skip(StageName::Login, reason);
            }
        }
    }
}
