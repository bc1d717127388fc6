//! Connection strings: signs them, and verifies the login that a client sends with one.

use std::time::{Duration, SystemTime};

use super::arn::REGION;
use super::signature::{
    RequestToSign, SKEW, SigningKeys, access_key_of, format_date, parse_date, query_settings,
};
use super::state::Simulation;

/// The service that connection strings are signed for.
const LOGIN_SERVICE: &str = "finspace-apricot";

/// The IAM action that opens a connection.
const LOGIN_ACTION: &str = "finspace:ConnectKxCluster";

/// The port that the signature of a connection string names. Clients dial another one.
const INNER_PORT: &str = "5000";

impl Simulation {
    /// Signs a login with the credentials of a session. Returns the password of the connection string;
    /// `None` if the session does not exist.
    pub(crate) fn sign_login(
        &self,
        access_key: &str,
        user: &str,
        inner_host: &str,
    ) -> Option<String> {
        let session = self.read(|state| state.sessions.get(access_key).cloned())?;
        let now = self.now();
        let life = self.faults.life().unwrap_or(self.options.string_life);
        let own = [
            ("Host", inner_host),
            ("Port", INNER_PORT),
            ("User", user),
            ("Action", LOGIN_ACTION),
        ];
        let keys = SigningKeys::from(session.clone());
        let signature = login_signature(&keys, &own, inner_host, now, life)?;
        let date = format_date(now);
        let credential = format!(
            "{access_key}/{}/{REGION}/{LOGIN_SERVICE}/aws4_request",
            date.get(..8).unwrap_or_default()
        );
        let password = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(own)
            .append_pair("X-Amz-Security-Token", &session.token)
            .append_pair("X-Amz-Algorithm", "AWS4-HMAC-SHA256")
            .append_pair("X-Amz-Date", &date)
            .append_pair("X-Amz-SignedHeaders", "host")
            .append_pair("X-Amz-Expires", &life.as_secs().to_string())
            .append_pair("X-Amz-Credential", &credential)
            .append_pair("X-Amz-Signature", &signature)
            .finish();
        self.update(|state| {
            state.secrets.push(password.clone());
            state.secrets.push(signature);
        });
        Some(password)
    }

    /// Verifies a login for the endpoint of a cluster, or for one of its nodes.
    ///
    /// # Errors
    /// The reason of the refusal.
    pub(crate) fn verify_login(
        &self,
        user: &str,
        password: &[u8],
        cluster: &str,
        node: Option<&str>,
    ) -> Result<(), String> {
        let inner_host = self.inner_host(cluster, node);
        let mut own = Vec::new();
        let mut amz: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(password) {
            if name.starts_with("X-Amz-") {
                amz.push((name.into_owned(), value.into_owned()));
            } else {
                own.push((name.into_owned(), value.into_owned()));
            }
        }
        let find = |pairs: &[(String, String)], name: &str| {
            pairs
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.clone())
                .ok_or_else(|| format!("the password has no {name}"))
        };
        let date = find(&amz, "X-Amz-Date")?;
        let time = parse_date(&date).ok_or("X-Amz-Date is no date")?;
        let life = find(&amz, "X-Amz-Expires")?
            .parse()
            .map(Duration::from_secs)
            .map_err(|_| "X-Amz-Expires is no number")?;
        let credential = find(&amz, "X-Amz-Credential")?;
        let access_key = access_key_of(&credential, &date, LOGIN_SERVICE)
            .map_err(|_| "X-Amz-Credential is for something else")?;
        let token = find(&amz, "X-Amz-Security-Token")?;
        let (keys, caller) = self
            .signing_keys(access_key, Some(&token))
            .map_err(|refusal| format!("the session that signed it: {refusal:?}"))?;
        let pairs: Vec<(&str, &str)> = own.iter().map(|(k, v)| (&**k, &**v)).collect();
        let host = find(&own, "Host")?;
        let again = login_signature(&keys, &pairs, &host, time, life)
            .ok_or("the password can't be signed again")?;
        if again != find(&amz, "X-Amz-Signature")? {
            return Err("the signature does not match".into());
        }
        let now = self.now();
        if time > now + SKEW {
            return Err("signed in the future".into());
        }
        if time + life <= now {
            return Err("the connection string has expired".into());
        }
        if find(&own, "Action")? != LOGIN_ACTION {
            return Err("signed for another action".into());
        }
        if host != inner_host {
            return Err(format!("signed for {host}, not for {inner_host}"));
        }
        if find(&own, "User")? != user {
            return Err("signed for another user".into());
        }
        let role = self.read(|state| state.users.get(user).map(|user| user.role.clone()));
        if role.is_none() || role != caller.role {
            return Err("signed by another role than the user's".into());
        }
        self.permit(&caller, LOGIN_ACTION, &self.cluster_arn(cluster))
    }
}

fn login_signature(
    keys: &SigningKeys,
    own: &[(&str, &str)],
    host: &str,
    time: SystemTime,
    life: Duration,
) -> Option<String> {
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(own)
        .finish();
    RequestToSign {
        method: "GET",
        uri: &format!("https://{host}:{INNER_PORT}/?{query}"),
        headers: &[],
        body: &[],
    }
    .signature(keys, LOGIN_SERVICE, time, query_settings(life))
}
