//! The calls that lead to a user's connection string, one by one: GetCallerIdentity, GetKxUser,
//! AssumeRole, GetKxConnectionString.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use aws_credential_types::Credentials;

use zeroize::Zeroizing;

use super::error::{AwsService, CallContext, DAEMON_IDENTITY};
use super::{AwsError, Clients, FinSpace, FinSpaceUser, SignedString, StringRequest, finspace};
use crate::arn::EnvironmentArn;
use crate::connection_string::ConnectionString;
use crate::environment::Environment;
use crate::role_arn::RoleArn;
use crate::role_session::session_name;

/// The duration of a role session that AssumeRole is asked for. It is the longest lifetime of a connection
/// string, and the most that AWS grants to a chained role.
const SESSION_SECONDS: i32 = 3_600;

/// The identity behind AWS credentials, as GetCallerIdentity returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerIdentity {
    /// The ARN of an IAM user or of a role session (`Arn`).
    pub arn: String,
    /// The AWS account (`Account`): twelve digits.
    pub account: String,
}

/// A FinSpace user, as GetKxUser returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KxUser {
    /// The ARN of the user (`userArn`).
    pub arn: String,
    /// The ARN of the user's IAM role (`iamRole`).
    pub role: String,
}

/// A session of a user's IAM role: temporary AWS credentials, which `Debug` does not show.
#[derive(Clone)]
pub struct RoleSession(Credentials);

impl RoleSession {
    /// The time at which the session ends, by AWS's clock.
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
    /// Calls GetCallerIdentity with the base credentials: the identity behind them.
    ///
    /// # Errors
    /// There are no base credentials, or AWS does not accept them.
    pub async fn caller_identity(
        &self,
        environment: &Arc<Environment>,
    ) -> Result<CallerIdentity, AwsError> {
        let clients = self.clients(environment).await;
        clients.caller_identity().await
    }

    /// Returns the user of a request. Calls GetKxUser with the base credentials, unless the request has the
    /// user's role.
    ///
    /// # Errors
    /// AWS refuses the call or does not answer.
    pub async fn kx_user(&self, request: &StringRequest<'_>) -> Result<KxUser, AwsError> {
        let clients = self.clients(request.environment).await;
        clients.user(request).await
    }

    /// Calls GetKxUser with the base credentials, and returns the role of the user.
    ///
    /// # Errors
    /// AWS refuses the call or does not answer, or the user has no role.
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
        let kx_user = self.kx_user(&request).await?;
        kx_user.role.parse().map_err(|why| {
            let said = format!("the iamRole of user {} {why}", user.kx_user);
            AwsError::malformed(AwsService::FinSpace, said)
        })
    }

    /// Calls AssumeRole with the base credentials. CloudTrail shows `local_user` as the name of the session.
    ///
    /// # Errors
    /// AWS refuses the call or does not answer.
    pub async fn assume_role(
        &self,
        environment: &Arc<Environment>,
        role: &str,
        local_user: &str,
    ) -> Result<RoleSession, AwsError> {
        let clients = self.clients(environment).await;
        clients.assume_role(role, local_user).await
    }

    /// Calls GetKxConnectionString as the user's role.
    ///
    /// # Errors
    /// AWS refuses the call or does not answer, or its answer is no connection string.
    pub async fn connection_string_as(
        &self,
        session: &RoleSession,
        user: &KxUser,
        request: &StringRequest<'_>,
    ) -> Result<SignedString, AwsError> {
        let clients = self.clients(request.environment).await;
        clients.connection_string_as(session, user, request).await
    }
}

impl KxUser {
    /// The ARN of a cluster in the environment of this user. None if the user's ARN is malformed.
    pub fn cluster_arn(&self, cluster: &str) -> Option<String> {
        let (environment, _) = self.arn.split_once("/kxUser/")?;
        Some(format!("{environment}/kxCluster/{cluster}"))
    }
}

impl Clients {
    /// Carries out all the steps.
    pub(super) async fn signed_string(
        &self,
        request: &StringRequest<'_>,
    ) -> Result<SignedString, AwsError> {
        let user = self.user(request).await?;
        let session = self.assume_role(&user.role, request.local_user).await?;
        self.connection_string_as(&session, &user, request).await
    }

    async fn caller_identity(&self) -> Result<CallerIdentity, AwsError> {
        let context = CallContext {
            action: "sts:GetCallerIdentity",
            needed_actions: &["sts:GetCallerIdentity"],
            identity: DAEMON_IDENTITY.into(),
            resource: "itself".into(),
            resource_arn: "*".into(),
            remedy: "allow it to them".into(),
        };
        let answer = self
            .sts
            .get_caller_identity()
            .send()
            .await
            .map_err(|error| AwsError::of_call(&context, &error))?;
        match (answer.arn, answer.account) {
            (Some(arn), Some(account)) => Ok(CallerIdentity { arn, account }),
            _ => Err(AwsError::malformed(
                AwsService::Sts,
                "GetCallerIdentity returned no ARN".into(),
            )),
        }
    }

    /// The user of a request. Asks FinSpace unless the request has the user's role.
    pub(super) async fn user(&self, request: &StringRequest<'_>) -> Result<KxUser, AwsError> {
        let Some(role) = request.role else {
            return self.kx_user(request).await;
        };
        // The role of a FinSpace user belongs to the partition and account of the environment.
        let environment = EnvironmentArn {
            environment: request.environment,
            partition: role.partition.clone(),
            account: role.account.clone(),
        };
        Ok(KxUser {
            arn: environment.user(request.kx_user),
            role: role.text.clone(),
        })
    }

    async fn kx_user(&self, request: &StringRequest<'_>) -> Result<KxUser, AwsError> {
        let context = CallContext {
            action: "finspace:GetKxUser",
            needed_actions: &["finspace:GetKxUser"],
            identity: DAEMON_IDENTITY.into(),
            resource: format!(
                "user {} in environment {}",
                request.kx_user, request.environment.id
            ),
            resource_arn: EnvironmentArn::in_any_account(request.environment).user(request.kx_user),
            remedy: format!(
                "allow it to the daemon's role, or set role_arn on user {}",
                request.local_user
            ),
        };
        let answer = self
            .finspace
            .get_kx_user()
            .environment_id(&request.environment.id)
            .user_name(request.kx_user)
            .send()
            .await
            .map_err(|error| AwsError::of_call(&context, &error))?;
        match (answer.user_arn, answer.iam_role) {
            (Some(arn), Some(role)) => Ok(KxUser { arn, role }),
            _ => Err(AwsError::malformed(
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
        let context = CallContext {
            action: "sts:AssumeRole",
            needed_actions: &["sts:AssumeRole", "sts:SetSourceIdentity"],
            identity: DAEMON_IDENTITY.into(),
            resource: role.into(),
            resource_arn: role.into(),
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
            .map_err(|error| AwsError::of_call(&context, &error))?;
        let session = assumed.credentials.ok_or_else(|| {
            let said = format!("AssumeRole of {role} returned no credentials");
            AwsError::malformed(AwsService::Sts, said)
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

    async fn connection_string_as(
        &self,
        session: &RoleSession,
        user: &KxUser,
        request: &StringRequest<'_>,
    ) -> Result<SignedString, AwsError> {
        let context = CallContext {
            action: "finspace:GetKxConnectionString",
            needed_actions: &[
                "finspace:GetKxConnectionString",
                "finspace:ConnectKxCluster",
            ],
            identity: user.role.clone(),
            resource: format!(
                "cluster {} in environment {}",
                request.cluster, request.environment.id
            ),
            resource_arn: user.cluster_arn(request.cluster).unwrap_or_default(),
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
            .map_err(|error| AwsError::of_call(&context, &error))?;
        let returned = |what: String| {
            let said = format!(
                "GetKxConnectionString for cluster {} returned {what}",
                request.cluster
            );
            AwsError::malformed(AwsService::FinSpace, said)
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
