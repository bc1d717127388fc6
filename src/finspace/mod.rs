//! The only place that knows the AWS SDK: a user's signed connection string, as that user's role.

mod discovery;
mod error;
mod profile;
pub mod q_api;
mod zone;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_finspace as finspace;
use aws_sdk_sts as sts;
use tokio::sync::Mutex;

use crate::config::{Environment, RoleArn};
use crate::connection_string::ConnectionString;
pub use discovery::{Cluster, Node};
use error::Asked;
pub use error::AwsError;
use profile::Profile;
pub use zone::zone_of_host;

/// One attempt of one call.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// One call with its repetitions.
const CALL_TIMEOUT: Duration = Duration::from_secs(12);
/// What is asked of AssumeRole: as long as a connection string may live, and the most that a
/// chained role is given.
const SESSION_SECONDS: i32 = 3_600;
/// Longest RoleSessionName and SourceIdentity.
const NAME_LIMIT: usize = 64;

/// The AWS side of every environment; clients are made when first needed.
#[derive(Debug, Default)]
pub struct FinSpace {
    clients: Mutex<HashMap<Arc<Environment>, Arc<Clients>>>,
}

#[derive(Debug)]
struct Clients {
    finspace: finspace::Client,
    sts: sts::Client,
}

/// Whose string, and for what.
#[derive(Debug, Clone, Copy)]
pub struct StringRequest<'a> {
    /// Where the cluster is.
    pub environment: &'a Arc<Environment>,
    /// Its name.
    pub cluster: &'a str,
    /// The FinSpace user.
    pub kx_user: &'a str,
    /// The user's role; asked of FinSpace (GetKxUser) without one.
    pub role: Option<&'a RoleArn>,
    /// The name that CloudTrail is to show.
    pub local_user: &'a str,
}

/// A connection string and the earliest of all that ends it.
#[derive(Debug)]
pub struct SignedString {
    /// Where to, as whom, with what.
    pub string: ConnectionString,
    /// The end of the signature or of the session that signed it.
    pub expires: SystemTime,
}

/// The user as FinSpace knows it.
#[derive(Debug)]
struct KxUser {
    arn: String,
    role: String,
}

impl FinSpace {
    /// GetKxUser (unless the role is known), AssumeRole, and as that role GetKxConnectionString.
    pub async fn connection_string(
        &self,
        request: &StringRequest<'_>,
    ) -> Result<SignedString, AwsError> {
        let clients = self.clients(request.environment).await;
        let signed = clients.signed_string(request).await;
        if signed.as_ref().is_err_and(|error| error.credentials) {
            // The SDK keeps what it once read: only new clients read it anew.
            self.forget(request.environment, &clients).await;
        }
        signed
    }

    async fn forget(&self, environment: &Arc<Environment>, unfit: &Arc<Clients>) {
        let mut clients = self.clients.lock().await;
        if clients
            .get(environment)
            .is_some_and(|now| Arc::ptr_eq(now, unfit))
        {
            clients.remove(environment);
        }
    }

    async fn clients(&self, environment: &Arc<Environment>) -> Arc<Clients> {
        let mut clients = self.clients.lock().await;
        if let Some(made) = clients.get(environment) {
            return Arc::clone(made);
        }
        let made = Arc::new(Clients::new(environment).await);
        clients.insert(Arc::clone(environment), Arc::clone(&made));
        made
    }
}

impl Clients {
    async fn new(environment: &Environment) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(ATTEMPT_TIMEOUT)
            .operation_attempt_timeout(ATTEMPT_TIMEOUT)
            .operation_timeout(CALL_TIMEOUT)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(Region::new(environment.region.clone()))
            .retry_config(RetryConfig::standard())
            .timeout_config(timeouts);
        // A profile that is named is meant: the default chain would let variables go first.
        if environment.profile.is_some() || environment.credentials_file.is_some() {
            loader = loader.credentials_provider(Profile::of(environment));
        }
        let config = loader.load().await;
        let mut finspace = finspace::config::Builder::from(&config);
        finspace.set_endpoint_url(environment.endpoint_url.clone());
        let mut sts = sts::config::Builder::from(&config);
        sts.set_endpoint_url(environment.sts_endpoint_url.clone());
        Self {
            finspace: finspace::Client::from_conf(finspace.build()),
            sts: sts::Client::from_conf(sts.build()),
        }
    }

    async fn signed_string(&self, request: &StringRequest<'_>) -> Result<SignedString, AwsError> {
        let user = self.user(request).await?;
        let session = self.assume_role(&user.role, request.local_user).await?;
        let session_end = session.expiry();
        let text = self.string_as(session, &user, request).await?;
        let string = ConnectionString::parse(&text).map_err(|why| {
            AwsError::garbled(format!(
                "GetKxConnectionString for cluster {} returned no connection string: {why}",
                request.cluster
            ))
        })?;
        let expires = [string.expires(), session_end].into_iter().flatten().min();
        Ok(SignedString {
            expires: expires.ok_or_else(|| {
                AwsError::garbled(format!(
                    "GetKxConnectionString for cluster {} returned a string without an expiry",
                    request.cluster
                ))
            })?,
            string,
        })
    }

    /// The user as the configuration tells it, or else FinSpace.
    async fn user(&self, request: &StringRequest<'_>) -> Result<KxUser, AwsError> {
        match request.role {
            Some(role) => Ok(KxUser {
                arn: user_arn(request, role),
                role: role.text.clone(),
            }),
            None => self.kx_user(request).await,
        }
    }

    async fn kx_user(&self, request: &StringRequest<'_>) -> Result<KxUser, AwsError> {
        let asked = Asked {
            action: "finspace:GetKxUser",
            as_whom: "the daemon's own AWS credentials".into(),
            resource: format!(
                "user {} in environment {}",
                request.kx_user, request.environment.id
            ),
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
            _ => Err(AwsError::garbled(format!(
                "GetKxUser knows no iamRole of user {}",
                request.kx_user
            ))),
        }
    }

    async fn assume_role(
        &self,
        role: &str,
        local_user: &str,
    ) -> Result<aws_credential_types::Credentials, AwsError> {
        let name = session_name(local_user);
        let asked = Asked {
            action: "sts:AssumeRole",
            as_whom: "the daemon's own AWS credentials".into(),
            resource: role.into(),
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
            AwsError::garbled(format!("AssumeRole of {role} returned no credentials"))
        })?;
        Ok(aws_credential_types::Credentials::new(
            session.access_key_id,
            session.secret_access_key,
            Some(session.session_token),
            SystemTime::try_from(session.expiration).ok(),
            "AssumeRole",
        ))
    }

    fn as_role(&self, session: aws_credential_types::Credentials) -> finspace::Client {
        let config = self.finspace.config().to_builder();
        finspace::Client::from_conf(config.credentials_provider(session).build())
    }

    async fn string_as(
        &self,
        session: aws_credential_types::Credentials,
        user: &KxUser,
        request: &StringRequest<'_>,
    ) -> Result<String, AwsError> {
        let asked = Asked {
            action: "finspace:GetKxConnectionString",
            as_whom: user.role.clone(),
            resource: format!(
                "cluster {} in environment {}",
                request.cluster, request.environment.id
            ),
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
        answer
            .signed_connection_string
            .ok_or_else(|| AwsError::garbled("GetKxConnectionString returned no string".into()))
    }
}

/// The ARN of a user whose role is configured: same partition and account as the role.
fn user_arn(request: &StringRequest<'_>, role: &RoleArn) -> String {
    format!(
        "arn:{}:finspace:{}:{}:kxEnvironment/{}/kxUser/{}",
        role.partition,
        request.environment.region,
        role.account,
        request.environment.id,
        request.kx_user
    )
}

/// A local user as RoleSessionName and SourceIdentity take it: 2 to 64 of `[A-Za-z0-9_+=,.@-]`.
fn session_name(local_user: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    let mut name: String = local_user
        .chars()
        .map(|c| if allowed(c) { c } else { '-' })
        .take(NAME_LIMIT)
        .collect();
    if name.len() < 2 {
        name.insert_str(0, "hopend-");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_named_after_the_local_user_within_what_sts_takes() {
        assert_eq!(session_name("alice@desk"), "alice@desk");
        assert_eq!(session_name("zoë b"), "zo--b");
        assert_eq!(session_name("x"), "hopend-x");
        assert_eq!(session_name(&"a".repeat(99)).len(), NAME_LIMIT);
    }
}
