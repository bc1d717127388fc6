//! An endpoint made ready for use: from a user who may use it to a kdb+ that has accepted the login.

mod error;
mod health;
mod password;
mod places;

use std::sync::Arc;

use rustls::ClientConfig;

use crate::config::{Address, Endpoint, Login, Node, Policy, Target, User};
use crate::credential::{Credential, Credentials, Recipe, Retry};
use crate::error::{ErrorKind, chain};
use crate::finspace;
use crate::nodes::{self, Listing, Nodes};
use crate::q::handshake::Hello;
use crate::status::PlaceRow;
use crate::upstream::tls::{TlsConfigs, TlsError};
use crate::upstream::{self, Upstream, UpstreamError};
pub use error::OpenError;
use health::Concerns;
use password::PasswordFile;
pub(crate) use password::read_password;
use places::Places;

/// An endpoint and what its sessions share.
#[derive(Debug)]
pub struct Route {
    endpoint: Arc<Endpoint>,
    tls: Result<Arc<ClientConfig>, TlsError>,
    /// The cluster's nodes, where one of them is chosen here.
    nodes: Option<Listing>,
    places: Places,
    password: PasswordFile,
}

/// A kdb+ that has accepted the login.
#[derive(Debug)]
pub struct Reached {
    /// The connection.
    pub upstream: Upstream,
    /// The node that was chosen, if one was.
    pub node: Option<String>,
}

/// What a refused login says about an address.
#[derive(Debug, Clone, Copy)]
enum Refusal<'u> {
    /// Nothing: the login is wrong, and trying it elsewhere would look like guessing.
    IsFinal,
    /// It rests, and the next one is tried.
    Rests(Concerns<'u>),
}

impl Route {
    /// Prepares an endpoint. A fault of its TLS set-up is kept and told to its sessions, so that it
    /// does not keep other endpoints from starting. Must be called within a tokio runtime.
    pub fn new(endpoint: Arc<Endpoint>, tls: &TlsConfigs, nodes: &Nodes) -> Self {
        let (listing, in_turn) = match &endpoint.target {
            Target::FinSpace {
                environment,
                cluster,
                node,
                ..
            } => {
                let chosen_here = *node != Node::Any;
                let listing = chosen_here.then(|| nodes.listing(environment, cluster));
                (listing, matches!(node, Node::Spread | Node::Zone))
            }
            Target::Addresses { policy, .. } => (None, *policy == Policy::Spread),
            Target::Console { .. } => (None, false),
        };
        Self {
            tls: tls.config(endpoint.ca_file()),
            nodes: listing,
            places: Places::new(&endpoint.name, in_turn),
            password: PasswordFile::default(),
            endpoint,
        }
    }

    /// The endpoint as configured.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The list of its cluster's nodes, where it needs one.
    pub fn listing(&self) -> Option<&Listing> {
        self.nodes.as_ref()
    }

    /// What can be fetched for a user of this endpoint before the user comes, as far as is known.
    pub fn recipes(&self, user: &User) -> Vec<Recipe> {
        let one = |node| self.recipe(user, node).into_iter().collect();
        match (&self.endpoint.target, &self.nodes) {
            (
                Target::FinSpace {
                    node: Node::Id(id), ..
                },
                _,
            ) => one(Some(id)),
            (Target::FinSpace { .. }, Some(nodes)) => nodes
                .known()
                .iter()
                .filter(|node| node.is_running())
                .filter_map(|node| self.recipe(user, Some(&node.id)))
                .collect(),
            _ => one(None),
        }
    }

    /// What is fetched for a user of this endpoint, if anything is; for one of its nodes, if given.
    fn recipe(&self, user: &User, node: Option<&str>) -> Option<Recipe> {
        match &self.endpoint.target {
            Target::FinSpace {
                environment,
                cluster,
                node_via,
                ..
            } => Some(Recipe::FinSpace {
                environment: Arc::clone(environment),
                cluster: cluster.clone(),
                node: node.map(|id| (id.to_owned(), *node_via)),
                kx_user: user.kx_user.clone(),
                role: user.role_arn.clone(),
                local_user: user.name.clone(),
            }),
            Target::Addresses {
                login: Login::Command(argv),
                ..
            } => Some(Recipe::Command {
                argv: argv.clone(),
                endpoint: self.endpoint.name.clone(),
                local_user: user.name.clone(),
            }),
            Target::Addresses { .. } | Target::Console { .. } => None,
        }
    }

    /// Where sessions can go and what of that rests, as far as it is chosen here.
    pub fn places(&self) -> Vec<PlaceRow> {
        match (&self.endpoint.target, &self.nodes) {
            (Target::Addresses { addresses, .. }, _) => addresses
                .iter()
                .map(|address| self.places.row(address.to_string(), ""))
                .collect(),
            (_, Some(nodes)) => nodes
                .known()
                .iter()
                .map(|node| self.places.row(node.id.clone(), &node.zone))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// Opens kdb+ for `user`. `hello` is what the client said: its capability is passed on, and its
    /// user and password where `login = "client"`.
    pub async fn open(
        &self,
        user: &User,
        hello: &Hello,
        credentials: &Credentials,
    ) -> Result<Reached, OpenError> {
        let upstream = match &self.endpoint.target {
            Target::FinSpace { .. } => {
                if let Some(nodes) = &self.nodes {
                    return self.open_node(nodes, user, hello, credentials).await;
                }
                self.open_issued(user, None, hello, credentials).await
            }
            Target::Addresses { login, .. } => match login {
                Login::Client => self.dial(hello, user, Refusal::IsFinal).await,
                Login::Fixed {
                    user: service,
                    password_file,
                } => {
                    let password = self.password.password(password_file).await?;
                    let hello = hello.with_login(service, password);
                    let refusal = Refusal::Rests(Concerns::Everybody);
                    self.dial(&hello, user, refusal).await
                }
                Login::Command(_) => self.open_issued(user, None, hello, credentials).await,
            },
            Target::Console { .. } => Err(OpenError::Console),
        };
        Ok(Reached {
            upstream: upstream?,
            node: None,
        })
    }

    /// The first node that can be had.
    async fn open_node(
        &self,
        nodes: &Listing,
        user: &User,
        hello: &Hello,
        credentials: &Credentials,
    ) -> Result<Reached, OpenError> {
        let groups = self.candidates(nodes).await?;
        let mut failed = OpenError::NoAddress;
        let mut none_given = false;
        for id in self.places.in_order(groups, Clone::clone, &user.name) {
            // Where AWS, or the cluster, gives no login for one node, asking for each of the others
            // in turn would add up: those go on whose login is at hand.
            if none_given {
                let recipe = self.recipe(user, Some(&id));
                if !recipe.is_some_and(|recipe| credentials.is_ready(&recipe)) {
                    continue;
                }
            }
            let limit = self.endpoint.connect_timeout;
            self.places.trying(&id, &user.name, limit);
            match self.open_issued(user, Some(&id), hello, credentials).await {
                Ok(upstream) => {
                    self.places.succeeded(&id, &user.name);
                    return Ok(Reached {
                        upstream,
                        node: Some(id),
                    });
                }
                // The node did nothing, and another would fare no better.
                Err(error @ OpenError::Upstream(UpstreamError::Descriptors { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    // A login that is not given, or not taken, may be this user's trouble alone.
                    let concerns = match &error {
                        OpenError::Upstream(error) if error.kind() == ErrorKind::Upstream => {
                            Concerns::Everybody
                        }
                        _ => Concerns::User(&user.name),
                    };
                    self.places.failed(&id, concerns, &chain(&error));
                    nodes.doubt();
                    none_given |= matches!(
                        &error,
                        OpenError::Credential(why) if why.retry == Retry::Soon
                    );
                    failed = error;
                }
            }
        }
        Err(failed)
    }

    /// The nodes that may be chosen, in groups, the nearest group first.
    async fn candidates(&self, nodes: &Listing) -> Result<Vec<Vec<String>>, OpenError> {
        let Target::FinSpace { cluster, node, .. } = &self.endpoint.target else {
            return Err(OpenError::NoAddress);
        };
        let listed = match (nodes.nodes().await, node) {
            (Ok(listed), _) => listed,
            // Whoever knows the node needs no list.
            (Err(_), Node::Id(id)) => return Ok(vec![vec![id.clone()]]),
            (Err(error), _) => return Err(OpenError::Nodes(error)),
        };
        let is_there = |id: &str| listed.iter().any(|node| node.id == id);
        self.places.keep(is_there);
        let running = listed.iter().filter(|node| node.is_running());
        let groups: [Vec<&finspace::Node>; 2] = match node {
            Node::Id(id) if is_there(id) => return Ok(vec![vec![id.clone()]]),
            Node::Id(id) => {
                nodes.doubt();
                return Err(OpenError::NodeGone {
                    node: id.clone(),
                    cluster: cluster.clone(),
                    there: nodes::names(&listed),
                });
            }
            Node::Zone => {
                let zone = nodes.zone();
                let near = |node: &&finspace::Node| Some(node.zone.as_str()) == zone.as_deref();
                let (near, far) = running.partition(near);
                [near, far]
            }
            Node::Spread | Node::Any => [running.collect(), Vec::new()],
        };
        if groups.iter().all(Vec::is_empty) {
            nodes.doubt();
            return Err(OpenError::NoneRunning {
                cluster: cluster.clone(),
                there: nodes::names(&listed),
            });
        }
        let ids = |group: Vec<&finspace::Node>| group.into_iter().map(|n| n.id.clone()).collect();
        Ok(groups.into_iter().map(ids).collect())
    }

    /// With a login that is kept ready, for a node if one is given. A login that kdb+ refuses may
    /// have been withdrawn early: it is fetched anew, once.
    async fn open_issued(
        &self,
        user: &User,
        node: Option<&str>,
        hello: &Hello,
        credentials: &Credentials,
    ) -> Result<Upstream, OpenError> {
        let recipe = self.recipe(user, node).ok_or(OpenError::NoAddress)?;
        let issued = credentials.obtain(&recipe).await?;
        match self.open_with(&issued.credential, user, hello).await {
            Err(OpenError::Upstream(UpstreamError::Rejected { .. })) => {
                tracing::info!(%recipe, generation = issued.generation, "kdb+ refused the login: fetching it anew");
                credentials.reject(&recipe, issued.generation);
                let issued = credentials.obtain(&recipe).await?;
                let opened = self.open_with(&issued.credential, user, hello).await;
                opened.map_err(|error| self.refused_anew(error, user))
            }
            opened => opened,
        }
    }

    /// A cluster of FinSpace says nothing when it refuses; with a new string it is likely the policy.
    fn refused_anew(&self, error: OpenError, user: &User) -> OpenError {
        match (error, &self.endpoint.target) {
            (
                OpenError::Upstream(refusal @ UpstreamError::Rejected { .. }),
                Target::FinSpace { cluster, .. },
            ) => OpenError::ClusterRefused {
                cluster: cluster.clone(),
                user: user.name.clone(),
                refusal,
            },
            (error, _) => error,
        }
    }

    /// Where the endpoint says, or else where the credential says.
    async fn open_with(
        &self,
        credential: &Credential,
        user: &User,
        hello: &Hello,
    ) -> Result<Upstream, OpenError> {
        let hello = hello.with_login(&credential.user, credential.password.clone());
        let plaintext = match &self.endpoint.target {
            Target::Addresses { addresses, .. } if !addresses.is_empty() => {
                let refusal = Refusal::Rests(Concerns::User(&user.name));
                return self.dial(&hello, user, refusal).await;
            }
            Target::Addresses { plaintext, .. } | Target::FinSpace { plaintext, .. } => *plaintext,
            Target::Console { .. } => return Err(OpenError::Console),
        };
        let address = credential.address.clone().ok_or(OpenError::NoAddress)?;
        if !address.tls && !plaintext {
            return Err(OpenError::Plaintext(address));
        }
        self.dial_one(&address, &hello).await
    }

    /// The first of the endpoint's addresses that can be had.
    async fn dial(
        &self,
        hello: &Hello,
        user: &User,
        refusal: Refusal<'_>,
    ) -> Result<Upstream, OpenError> {
        let Target::Addresses { addresses, .. } = &self.endpoint.target else {
            return Err(OpenError::NoAddress);
        };
        let name = |address: &Address| address.to_string();
        let mut refused = None;
        let mut failed = OpenError::NoAddress;
        let groups = vec![addresses.clone()];
        for address in self.places.in_order(groups, name, &user.name) {
            let place = name(&address);
            let limit = self.endpoint.connect_timeout;
            self.places.trying(&place, &user.name, limit);
            let error = match self.dial_one(&address, hello).await {
                Ok(upstream) => {
                    self.places.succeeded(&place, &user.name);
                    return Ok(upstream);
                }
                Err(error) => error,
            };
            match (&error, refusal) {
                (OpenError::Upstream(UpstreamError::Rejected { .. }), Refusal::IsFinal)
                | (OpenError::Upstream(UpstreamError::Descriptors { .. }), _) => {
                    return Err(error);
                }
                (OpenError::Upstream(UpstreamError::Rejected { .. }), Refusal::Rests(concerns)) => {
                    self.places.failed(&place, concerns, &chain(&error));
                    refused.get_or_insert(error);
                }
                // What the client itself sent may have been too much for kdb+.
                (OpenError::Upstream(UpstreamError::Login { .. }), Refusal::IsFinal) => {
                    let concerns = Concerns::User(&user.name);
                    self.places.failed(&place, concerns, &chain(&error));
                    failed = error;
                }
                _ => {
                    self.places
                        .failed(&place, Concerns::Everybody, &chain(&error));
                    failed = error;
                }
            }
        }
        // A refusal says more than the silence of another address.
        Err(refused.unwrap_or(failed))
    }

    async fn dial_one(&self, address: &Address, hello: &Hello) -> Result<Upstream, OpenError> {
        // A fault of the TLS set-up is none of an address that needs no TLS.
        let tls = match &self.tls {
            Ok(tls) => Some(tls),
            Err(error) if address.tls => return Err(error.clone().into()),
            Err(_) => None,
        };
        let limit = self.endpoint.connect_timeout;
        Ok(upstream::open(address, tls, hello, limit).await?)
    }
}

#[cfg(test)]
mod tests;
