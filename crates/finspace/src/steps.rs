//! The calls that lead to a user's connection string, one by one: whose the base credentials are,
//! the user, the user's role, the string.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use aws_credential_types::Credentials;

use super::error::{Asked, AwsService, partition_of};
use super::{AwsError, Clients, FinSpace, SignedString, StringRequest, finspace};
use crate::FinSpaceUser;
use crate::environment::Environment;
use crate::role_arn::RoleArn;
use zeroize::Zeroizing;

use crate::connection_string::ConnectionString;
use crate::role_session::session_name;

/// What is asked of AssumeRole: as long as a connection string may live, and the most that a
/// chained role is given.
const SESSION_SECONDS: i32 = 3_600;

/// Whose credentials these are, as GetCallerIdentity tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// `Arn`: of a user, or of a session of a role.
    pub arn: String,
    /// `Account`.
    pub account: String,
}

/// The user as FinSpace knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KxUser {
    /// `userArn`.
    pub arn: String,
    /// `iamRole`.
    pub role: String,
}

/// A session of a user's role.
#[derive(Clone)]
pub struct RoleSession(Credentials);

impl RoleSession {
    /// When it ends.
    pub fn expires(&self) -> Option<SystemTime> {
        self.0.expiry()
    }
}

impl fmt::Debug for RoleSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RoleSession")
    }
}

impl FinSpace {
    /// GetCallerIdentity: whose the daemon's own credentials are.
    pub async fn caller_identity(
        &self,
        environment: &Arc<Environment>,
    ) -> Result<Caller, AwsError> {
        let clients = self.clients(environment).await;
        clients.caller_identity().await
    }

    /// The user as the configuration tells it, or else GetKxUser.
    pub async fn kx_user(&self, request: &StringRequest<'_>) -> Result<KxUser, AwsError> {
        let clients = self.clients(request.environment).await;
        clients.user(request).await
    }

    /// The role of a user, as GetKxUser tells it.
    pub async fn role(
        &self,
        environment: &Arc<Environment>,
        user: FinSpaceUser<'_>,
    ) -> Result<RoleArn, AwsError> {
        let request = StringRequest {
            environment,
            cluster: "",
            kx_user: user.kx_user,
            role: None,
            local_user: user.local_user,
        };
        let found = self.kx_user(&request).await?;
        found.role.parse().map_err(|why| {
            let said = format!("the iamRole of user {} {why}", user.kx_user);
            AwsError::garbled(AwsService::FinSpace, said)
        })
    }

    /// AssumeRole of the user's role.
    pub async fn assume_role(
        &self,
        environment: &Arc<Environment>,
        role: &str,
        local_user: &str,
    ) -> Result<RoleSession, AwsError> {
        let clients = self.clients(environment).await;
        clients.assume_role(role, local_user).await
    }

    /// GetKxConnectionString, as the user's role.
    pub async fn string_as(
        &self,
        session: &RoleSession,
        user: &KxUser,
        request: &StringRequest<'_>,
    ) -> Result<SignedString, AwsError> {
        let clients = self.clients(request.environment).await;
        clients.string_as(session, user, request).await
    }
}

impl KxUser {
    /// The ARN of a cluster in this user's environment.
    pub fn cluster_arn(&self, cluster: &str) -> Option<String> {
        let (environment, _) = self.arn.split_once("/kxUser/")?;
        Some(format!("{environment}/kxCluster/{cluster}"))
    }
}

impl Clients {
    /// All of the steps.
    pub(super) async fn signed_string(
        &self,
        request: &StringRequest<'_>,
    ) -> Result<SignedString, AwsError> {
        let user = self.user(request).await?;
        let session = self.assume_role(&user.role, request.local_user).await?;
        self.string_as(&session, &user, request).await
    }

    async fn caller_identity(&self) -> Result<Caller, AwsError> {
        let asked = Asked {
            action: "sts:GetCallerIdentity",
            allow: &["sts:GetCallerIdentity"],
            as_whom: "the daemon's own AWS credentials".into(),
            resource: "itself".into(),
            arn: "*".into(),
            remedy: "allow it to them".into(),
        };
        let told = self
            .sts
            .get_caller_identity()
            .send()
            .await
            .map_err(|error| AwsError::of_call(&asked, &error))?;
        match (told.arn, told.account) {
            (Some(arn), Some(account)) => Ok(Caller { arn, account }),
            _ => Err(AwsError::garbled(
                AwsService::Sts,
                "GetCallerIdentity returned no ARN".into(),
            )),
        }
    }

    /// The user as the configuration tells it, or else FinSpace.
    pub(super) async fn user(&self, request: &StringRequest<'_>) -> Result<KxUser, AwsError> {
        match request.role {
            Some(role) => Ok(KxUser {
                // Same partition and account as the role.
                arn: user_arn(request, &role.partition, &role.account),
                role: role.text.clone(),
            }),
            None => self.kx_user(request).await,
        }
    }

    async fn kx_user(&self, request: &StringRequest<'_>) -> Result<KxUser, AwsError> {
        let asked = Asked {
            action: "finspace:GetKxUser",
            allow: &["finspace:GetKxUser"],
            as_whom: "the daemon's own AWS credentials".into(),
            resource: format!(
                "user {} in environment {}",
                request.kx_user, request.environment.id
            ),
            arn: user_arn(request, partition_of(&request.environment.region), "*"),
            remedy: format!(
                "allow it to the daemon's role, or set role_arn on user {}",
                request.local_user
            ),
        };
        let found = self
            .finspace
            .get_kx_user()
            .environment_id(&request.environment.id)
            .user_name(request.kx_user)
            .send()
            .await
            .map_err(|error| AwsError::of_call(&asked, &error))?;
        match (found.user_arn, found.iam_role) {
            (Some(arn), Some(role)) => Ok(KxUser { arn, role }),
            _ => Err(AwsError::garbled(
                AwsService::FinSpace,
                format!("GetKxUser knows no iamRole of user {}", request.kx_user),
            )),
        }
    }

    pub(super) async fn assume_role(
        &self,
        role: &str,
        local_user: &str,
    ) -> Result<RoleSession, AwsError> {
        let name = session_name(local_user);
        let asked = Asked {
            action: "sts:AssumeRole",
            allow: &["sts:AssumeRole", "sts:SetSourceIdentity"],
            as_whom: "the daemon's own AWS credentials".into(),
            resource: role.into(),
            arn: role.into(),
            remedy: "allow sts:AssumeRole and sts:SetSourceIdentity on it to the daemon's role, \
                     and trust that role in its trust policy"
                .into(),
        };
        let assumed = self
            .sts
            .assume_role()
            .role_arn(role)
            .role_session_name(&name)
            .source_identity(&name)
            .duration_seconds(SESSION_SECONDS)
            .send()
            .await
            .map_err(|error| AwsError::of_call(&asked, &error))?;
        let session = assumed.credentials.ok_or_else(|| {
            let said = format!("AssumeRole of {role} returned no credentials");
            AwsError::garbled(AwsService::Sts, said)
        })?;
        Ok(RoleSession(Credentials::new(
            session.access_key_id,
            session.secret_access_key,
            Some(session.session_token),
            SystemTime::try_from(session.expiration).ok(),
            "AssumeRole",
        )))
    }

    pub(super) fn as_role(&self, session: &RoleSession) -> finspace::Client {
        let config = self.finspace.config().to_builder();
        finspace::Client::from_conf(config.credentials_provider(session.0.clone()).build())
    }

    async fn string_as(
        &self,
        session: &RoleSession,
        user: &KxUser,
        request: &StringRequest<'_>,
    ) -> Result<SignedString, AwsError> {
        let asked = Asked {
            action: "finspace:GetKxConnectionString",
            allow: &[
                "finspace:GetKxConnectionString",
                "finspace:ConnectKxCluster",
            ],
            as_whom: user.role.clone(),
            resource: format!(
                "cluster {} in environment {}",
                request.cluster, request.environment.id
            ),
            arn: user.cluster_arn(request.cluster).unwrap_or_default(),
            remedy: format!(
                "allow finspace:GetKxConnectionString and finspace:ConnectKxCluster on it to {}",
                user.role
            ),
        };
        let answer = self
            .as_role(session)
            .get_kx_connection_string()
            .environment_id(&request.environment.id)
            .user_arn(&user.arn)
            .cluster_name(request.cluster)
            .send()
            .await
            .map_err(|error| AwsError::of_call(&asked, &error))?;
        let returned = |what: String| {
            let said = format!(
                "GetKxConnectionString for cluster {} returned {what}",
                request.cluster
            );
            AwsError::garbled(AwsService::FinSpace, said)
        };
        let text = answer
            .signed_connection_string
            .map(Zeroizing::new)
            .ok_or_else(|| returned("no string".into()))?;
        let string = ConnectionString::parse(&text)
            .map_err(|why| returned(format!("no connection string: {why}")))?;
        let ends = [string.expires(), session.expires()];
        let expires = ends.into_iter().flatten().min();
        Ok(SignedString {
            expires: expires.ok_or_else(|| returned("a string without an expiry".into()))?,
            valid_for: string.valid_for(),
            aws_time: self.clock.time(),
            string,
        })
    }
}

/// As FinSpace makes them. An account that is not known is `*`.
fn user_arn(request: &StringRequest<'_>, partition: &str, account: &str) -> String {
    format!(
        "arn:{partition}:finspace:{}:{account}:kxEnvironment/{}/kxUser/{}",
        request.environment.region, request.environment.id, request.kx_user
    )
}
