//! An endpoint made ready for use: from a user who may use it to a kdb+ that has accepted the login.

mod attempt;
mod capability;
mod error;
mod health;
pub mod nodes;
mod pace;
mod password;
mod places;
mod probe;
mod tried;
mod warm;

use std::sync::Arc;

use rustls::ClientConfig;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{Endpoint, Login, Node, Policy, Target, User};
use crate::credential::{Credential, Credentials, GenerationStatus, Recipe, RequestedNode};
use crate::surface::status::{PlaceRow, WarmRow};
use crate::telemetry::opening::{Laps, OpenStage};
use crate::upstream::tls::{TlsConfigs, TlsError};
use crate::upstream::{self, Trail, Upstream, UpstreamError};
use attempt::{NodeAttempt, Said};
use base::address::Address;
use capability::AcceptedLogins;
pub use error::OpenError;
use finspace;
use nodes::{Listing, Nodes};
use password::PasswordFile;
pub(crate) use password::read_password;
use places::{LoginOf, PlaceChoice, PlaceOrder, Places};
use probe::Prober;
use q_ipc::handshake::Hello;
use secret::Secret;
pub use tried::NoneOfThem;
use warm::{Fitting, Warm};

/// An endpoint and what its sessions share.
#[derive(Debug)]
pub struct Route {
    endpoint: Arc<Endpoint>,
    tls: Result<Arc<ClientConfig>, TlsError>,
    /// The cluster's nodes, where one of them is chosen here.
    nodes: Option<Listing>,
    places: Places,
    prober: Prober,
    accepted: AcceptedLogins,
    warm: Option<Warm>,
    password: PasswordFile,
    /// Ends probes and what is kept warm.
    closed: CancellationToken,
}

/// A kdb+ that has accepted the login.
#[derive(Debug)]
pub struct Reached {
    /// The connection.
    pub upstream: Upstream,
    /// The node that was chosen, if one was.
    pub node: Option<String>,
    /// Whether it was kept logged in since before the session.
    pub warm: bool,
}

/// Whom a connection is for.
#[derive(Debug)]
struct Visit {
    user: Arc<User>,
    /// What the client said, or will say.
    hello: Hello,
    credentials: Credentials,
    purpose: Purpose,
    laps: Arc<Laps>,
    trail: Arc<Trail>,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// A session that waits for it, and tries addresses that rest where no others are left.
    Session,
    /// Sessions that are yet to come.
    Keeping,
}

impl Purpose {
    /// The addresses that are tried, in order.
    fn tries<P>(self, order: PlaceOrder<P>) -> Vec<P> {
        let PlaceOrder { mut fresh, resting } = order;
        if self == Self::Session {
            fresh.extend(resting);
        }
        fresh
    }
}

/// A connection, and all that decides whose it can be.
#[derive(Debug)]
struct Opened {
    upstream: Upstream,
    node: Option<String>,
    /// The place that was chosen, if one was.
    place: Option<String>,
    login: LoggedIn,
}

/// What a connection was logged in with.
#[derive(Debug, Clone)]
enum LoggedIn {
    /// What the client gave.
    Client,
    /// The endpoint's own, with the password of that moment.
    Fixed(Secret),
    /// One that was fetched, and which of them.
    Issued(Recipe, u64),
}

impl Opened {
    fn reached(self, warm: bool) -> Reached {
        Reached {
            upstream: self.upstream,
            node: self.node,
            warm,
        }
    }
}

impl Route {
    /// Prepares an endpoint. A fault of its TLS set-up is kept and told to its sessions, so that it
    /// does not keep other endpoints from starting. Must be called within a tokio runtime.
    pub fn new(endpoint: Arc<Endpoint>, tls: &TlsConfigs, nodes: &Nodes) -> Self {
        let (listing, choice) = match &endpoint.target {
            Target::FinSpace {
                environment,
                cluster,
                node,
                ..
            } => {
                let chosen_here = *node != Node::Any;
                let listing = chosen_here.then(|| nodes.listing(environment, cluster));
                let choice = match node {
                    Node::Spread | Node::Zone => PlaceChoice::InTurn,
                    Node::Any | Node::Id(_) => PlaceChoice::Only,
                };
                (listing, choice)
            }
            Target::Addresses { addresses, .. } if addresses.len() < 2 => (None, PlaceChoice::Only),
            Target::Addresses { policy, .. } => {
                let choice = match policy {
                    Policy::Failover { after } => PlaceChoice::InOrder(*after),
                    Policy::Spread => PlaceChoice::InTurn,
                };
                (None, choice)
            }
            Target::Console { .. } => (None, PlaceChoice::Only),
        };
        let closed = CancellationToken::new();
        Self {
            tls: tls.config(endpoint.ca_file()),
            nodes: listing,
            places: Places::new(&endpoint.name, choice, endpoint.connect_timeout),
            prober: Prober::new(closed.clone()),
            accepted: AcceptedLogins::default(),
            warm: Warm::new(&endpoint, closed.clone()),
            password: PasswordFile::default(),
            closed,
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
                node: node.map(|id| RequestedNode {
                    id: id.to_owned(),
                    via: *node_via,
                }),
                kx_user: user.kx_user.clone(),
                role: user.role_arn.clone(),
                local_user: user.name.clone(),
            }),
            Target::Addresses {
                login: Login::Command(command),
                ..
            } => Some(Recipe::Command {
                command: command.clone(),
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
    /// user and password where `login = "client"`. What takes time is told to `laps`; `trail` is the
    /// session's.
    pub async fn open(
        self: &Arc<Self>,
        user: &Arc<User>,
        hello: &Hello,
        credentials: &Credentials,
        laps: &Arc<Laps>,
        trail: &Arc<Trail>,
    ) -> Result<Reached, OpenError> {
        if let Some(kept) = self.take_warm(user, hello, credentials).await {
            return Ok(kept.reached(true));
        }
        let visit = Arc::new(Visit {
            user: Arc::clone(user),
            hello: hello.clone(),
            credentials: credentials.clone(),
            purpose: Purpose::Session,
            laps: Arc::clone(laps),
            trail: Arc::clone(trail),
        });
        Ok(self.open_anew(&visit).await?.reached(false))
    }

    /// A connection that was kept logged in, if there is one that this session could have made now.
    async fn take_warm(
        &self,
        user: &User,
        hello: &Hello,
        credentials: &Credentials,
    ) -> Option<Opened> {
        let warm = self.warm.as_ref()?;
        if !warm.may_have(&user.name, hello.capability) {
            return None;
        }
        let password = match &self.endpoint.target {
            Target::Addresses {
                login: Login::Fixed { password_file, .. },
                ..
            } => Some(self.password.password(password_file).await.ok()?),
            _ => None,
        };
        let standing = |opened: &Opened| self.standing(opened, password.as_ref(), credentials);
        let fitting = Fitting {
            capability: hello.capability,
            places: self
                .best_places(&user.name)
                .map(|best| self.places.known_to_answer(best)),
            standing: &standing,
        };
        warm.take(&user.name, &fitting)
    }

    /// A session of `user` has been opened: connections for those that may follow are made ready,
    /// where the endpoint keeps any.
    pub fn keep_warm(
        self: &Arc<Self>,
        user: &Arc<User>,
        capability: Option<u8>,
        credentials: &Credentials,
    ) {
        if let Some(warm) = &self.warm {
            warm.came(self, user, capability, credentials);
        }
    }

    /// What is kept, by user.
    pub fn warm(&self) -> Vec<WarmRow> {
        self.warm.as_ref().map_or_else(Vec::new, Warm::rows)
    }

    /// When this is dropped, nothing is kept any more, and no address is probed.
    pub fn guard(&self) -> DropGuard {
        self.closed.clone().drop_guard()
    }

    /// Returns when probes have ended and what was kept has been let go, the guard being dropped.
    pub async fn cooled_down(&self) {
        self.prober.ended().await;
        if let Some(warm) = &self.warm {
            warm.emptied().await;
        }
    }

    /// What the login of a connection is worth, `password` being the endpoint's own as it is now, if
    /// it was looked at.
    fn standing(
        &self,
        opened: &Opened,
        password: Option<&Secret>,
        credentials: &Credentials,
    ) -> GenerationStatus {
        match &opened.login {
            LoggedIn::Fixed(given) => match password {
                Some(password) if password != given => GenerationStatus::Invalid,
                _ => GenerationStatus::Current,
            },
            LoggedIn::Issued(recipe, generation) => {
                credentials.generation_status(recipe, *generation)
            }
            LoggedIn::Client => GenerationStatus::Invalid,
        }
    }

    /// The places that a session of `user` would go to now, as far as one is chosen here.
    fn best_places(&self, user: &str) -> Option<Vec<String>> {
        let groups = match (&self.endpoint.target, &self.nodes) {
            (Target::Addresses { addresses, .. }, _) if !addresses.is_empty() => {
                vec![addresses.iter().map(ToString::to_string).collect()]
            }
            (Target::FinSpace { node, .. }, Some(nodes)) => match (node, &nodes.known()[..]) {
                (Node::Id(id), []) => vec![vec![id.clone()]],
                (_, known) => self.groups(nodes, known).unwrap_or_default(),
            },
            _ => return None,
        };
        Some(self.places.best(groups, user))
    }

    /// Opens kdb+ for a session of `user` that is yet to come, at the place whose turn it is.
    async fn open_to_keep(
        self: &Arc<Self>,
        user: &Arc<User>,
        capability: Option<u8>,
        credentials: &Credentials,
    ) -> Result<Opened, OpenError> {
        let hello = Hello {
            user: String::new(),
            password: Secret::default(),
            capability,
        };
        let visit = Arc::new(Visit {
            user: Arc::clone(user),
            hello,
            credentials: credentials.clone(),
            purpose: Purpose::Keeping,
            laps: Arc::default(),
            trail: Trail::of_none(&self.endpoint),
        });
        self.open_anew(&visit).await
    }

    async fn open_anew(self: &Arc<Self>, visit: &Arc<Visit>) -> Result<Opened, OpenError> {
        match &self.endpoint.target {
            Target::FinSpace { .. } => match &self.nodes {
                Some(nodes) => self.open_any_node(nodes, visit).await,
                None => self.open_issued(None, visit).await,
            },
            Target::Addresses { login, .. } => match login {
                Login::Client => {
                    let hello = visit.hello.clone();
                    self.open_any_address(hello, LoggedIn::Client, visit).await
                }
                Login::Fixed {
                    user: service,
                    password_file,
                } => {
                    let password = self.password.password(password_file).await?;
                    let hello = visit.hello.with_login(service, password.clone());
                    let login = LoggedIn::Fixed(password);
                    self.open_any_address(hello, login, visit).await
                }
                Login::Command(_) => self.open_issued(None, visit).await,
            },
            Target::Console { .. } => Err(OpenError::Console),
        }
    }

    /// The first node that can be had.
    async fn open_any_node(
        self: &Arc<Self>,
        nodes: &Listing,
        visit: &Arc<Visit>,
    ) -> Result<Opened, OpenError> {
        let groups = visit.laps.time(OpenStage::Nodes, self.candidates(nodes));
        let groups = groups.await?;
        let user = &visit.user;
        let order = self.places.in_order(groups, Clone::clone, &user.name);
        let is_ready = |id: &String| {
            let recipe = self.recipe(user, Some(id));
            recipe.is_some_and(|recipe| visit.credentials.is_ready(&recipe))
        };
        let attempt = |id, late| self.attempt_at_node(NodeAttempt { id, late }, visit);
        let ids = visit.purpose.tries(order);
        self.first_of(ids, visit, attempt, is_ready).await
    }

    /// The first of the endpoint's addresses that can be had.
    async fn open_any_address(
        self: &Arc<Self>,
        hello: Hello,
        login: LoggedIn,
        visit: &Arc<Visit>,
    ) -> Result<Opened, OpenError> {
        let Target::Addresses { addresses, .. } = &self.endpoint.target else {
            return Err(OpenError::NoAddress);
        };
        let order = self.places.in_order(
            vec![addresses.clone()],
            Address::to_string,
            &visit.user.name,
        );
        let said = Arc::new(Said { hello, login });
        let attempt = |address, late| self.attempt_at_address(address, &said, visit, late);
        let addresses = visit.purpose.tries(order);
        self.first_of(addresses, visit, attempt, |_| true).await
    }

    /// The nodes that may be chosen, in groups, the nearest group first.
    async fn candidates(&self, nodes: &Listing) -> Result<Vec<Vec<String>>, OpenError> {
        let listed = match (nodes.nodes().await, self.endpoint.target.node()) {
            (Ok(listed), _) => listed,
            // Whoever knows the node needs no list.
            (Err(_), Some(Node::Id(id))) => return Ok(vec![vec![id.clone()]]),
            (Err(error), _) => return Err(OpenError::Nodes(error)),
        };
        self.places
            .keep(|id| listed.iter().any(|node| node.id == id));
        self.groups(nodes, &listed).inspect_err(|_| nodes.doubt())
    }

    /// Those of a list.
    fn groups(
        &self,
        nodes: &Listing,
        listed: &[finspace::Node],
    ) -> Result<Vec<Vec<String>>, OpenError> {
        let Target::FinSpace { cluster, node, .. } = &self.endpoint.target else {
            return Err(OpenError::NoAddress);
        };
        let running = listed.iter().filter(|node| node.is_running());
        let groups: [Vec<&finspace::Node>; 2] = match node {
            Node::Id(id) if listed.iter().any(|node| node.id == *id) => {
                return Ok(vec![vec![id.clone()]]);
            }
            Node::Id(id) => {
                return Err(OpenError::NodeGone {
                    node: id.clone(),
                    cluster: cluster.clone(),
                    there: nodes::names(listed),
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
            return Err(OpenError::NoneRunning {
                cluster: cluster.clone(),
                there: nodes::names(listed),
            });
        }
        let ids = |group: Vec<&finspace::Node>| group.into_iter().map(|n| n.id.clone()).collect();
        Ok(groups.into_iter().map(ids).collect())
    }

    /// With a login that is kept ready, for a node if one is given. A login that kdb+ refuses may
    /// have been withdrawn early: it is fetched anew, once.
    async fn open_issued(
        self: &Arc<Self>,
        node: Option<&NodeAttempt>,
        visit: &Arc<Visit>,
    ) -> Result<Opened, OpenError> {
        let (user, credentials) = (&visit.user, &visit.credentials);
        let recipe = self.recipe(user, node.map(|node| node.id.as_str()));
        let recipe = recipe.ok_or(OpenError::NoAddress)?;
        let obtain = || {
            visit
                .laps
                .time(OpenStage::Credential, credentials.obtain(&recipe))
        };
        let login = |generation| LoggedIn::Issued(recipe.clone(), generation);
        let issued = obtain().await?;
        let opened = self.open_with(&issued.credential, login(issued.generation), node, visit);
        let rejected = |error: &OpenError| {
            matches!(
                error.deciding(),
                OpenError::Upstream(UpstreamError::Rejected { .. })
            )
        };
        match opened.await {
            Err(error) if rejected(&error) => {
                tracing::info!(%recipe, generation = issued.generation, "kdb+ refused the login: fetching it anew");
                credentials.reject(&recipe, issued.generation);
                let issued = obtain().await?;
                let opened =
                    self.open_with(&issued.credential, login(issued.generation), node, visit);
                opened.await.map_err(|error| self.refused_anew(error, user))
            }
            opened => opened,
        }
    }

    /// Whether clients give the login themselves.
    fn passes_on_logins(&self) -> bool {
        let login = match &self.endpoint.target {
            Target::Addresses { login, .. } => login,
            Target::FinSpace { .. } | Target::Console { .. } => return false,
        };
        *login == Login::Client
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
        self: &Arc<Self>,
        credential: &Credential,
        login: LoggedIn,
        node: Option<&NodeAttempt>,
        visit: &Arc<Visit>,
    ) -> Result<Opened, OpenError> {
        let hello = visit
            .hello
            .with_login(&credential.user, credential.password.clone());
        if matches!(&self.endpoint.target, Target::Addresses { addresses, .. } if !addresses.is_empty())
        {
            return self.open_any_address(hello, login, visit).await;
        }
        let address = self.address_of(credential)?;
        let said = Said { hello, login };
        let dial = self.dial_one(&address, &said.hello, visit);
        let dialled = match node {
            Some(node) => {
                let user = LoginOf::User(&visit.user.name);
                self.with_head_start(&node.id, user, &node.late, visit.purpose, dial)
                    .await
            }
            None => dial.await,
        };
        let upstream = self.judged(&address, &said, visit, dialled).await?;
        let id = node.map(|node| node.id.clone());
        Ok(Opened {
            upstream,
            place: id.clone(),
            node: id,
            login: said.login,
        })
    }

    /// Where a credential leads, if its login may go there.
    fn address_of(&self, credential: &Credential) -> Result<Address, OpenError> {
        let plaintext = match &self.endpoint.target {
            Target::Addresses { plaintext, .. } | Target::FinSpace { plaintext, .. } => *plaintext,
            Target::Console { .. } => return Err(OpenError::Console),
        };
        let address = credential.address.clone().ok_or(OpenError::NoAddress)?;
        if !address.tls && !plaintext {
            return Err(OpenError::Plaintext(address));
        }
        Ok(address)
    }

    /// What TLS is spoken with at `address`, where it has any: a fault of the TLS set-up is none of an
    /// address that needs no TLS.
    fn tls_for(&self, address: &Address) -> Result<Option<&Arc<ClientConfig>>, OpenError> {
        match &self.tls {
            Ok(tls) => Ok(Some(tls)),
            Err(error) if address.tls => Err(error.clone().into()),
            Err(_) => Ok(None),
        }
    }

    async fn dial_one(
        &self,
        address: &Address,
        hello: &Hello,
        visit: &Visit,
    ) -> Result<Upstream, OpenError> {
        let tls = self.tls_for(address)?;
        let limit = self.endpoint.connect_timeout;
        let (laps, trail) = (&visit.laps, Some(&visit.trail));
        Ok(upstream::open_in_laps(address, tls, hello, limit, laps, trail).await?)
    }
}

#[cfg(test)]
mod tests;
