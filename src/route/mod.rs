//! An endpoint made ready for use: from a user who may use it to a kdb+ that has accepted the login.

mod error;
mod health;
mod password;
mod places;
mod tried;
mod warm;

use std::sync::Arc;

use rustls::ClientConfig;
use tokio_util::sync::DropGuard;

use crate::config::{Address, Endpoint, Login, Node, Policy, Target, User};
use crate::credential::{Credential, Credentials, Recipe, Retry, Standing};
use crate::error::{ErrorKind, chain};
use crate::finspace;
use crate::nodes::{self, Listing, Nodes};
use crate::opening::{Laps, OpenStage};
use crate::q::handshake::Hello;
use crate::secret::Secret;
use crate::status::{PlaceRow, WarmRow};
use crate::upstream::tls::{TlsConfigs, TlsError};
use crate::upstream::{self, Trail, Upstream, UpstreamError};
pub use error::OpenError;
use health::Concerns;
use password::PasswordFile;
pub(crate) use password::read_password;
use places::Places;
pub use tried::NoneOfThem;
use tried::Tried;
use warm::{Fitting, Warm};

/// An endpoint and what its sessions share.
#[derive(Debug)]
pub struct Route {
    endpoint: Arc<Endpoint>,
    tls: Result<Arc<ClientConfig>, TlsError>,
    /// The cluster's nodes, where one of them is chosen here.
    nodes: Option<Listing>,
    places: Places,
    warm: Option<Warm>,
    password: PasswordFile,
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
struct Visit<'v> {
    user: &'v User,
    /// What the client said, or will say.
    hello: &'v Hello,
    credentials: &'v Credentials,
    /// The only place to go to, where it has been chosen.
    only: Option<&'v str>,
    laps: &'v Laps,
    trail: &'v Arc<Trail>,
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

/// A connection that has been logged in somehow.
struct Dialled {
    upstream: Upstream,
    place: Option<String>,
}

/// What a connection was logged in with.
#[derive(Debug)]
enum LoggedIn {
    /// What the client gave.
    Client,
    /// The endpoint's own, with the password of that moment.
    Fixed(Secret),
    /// One that was fetched, and which of them.
    Issued(Recipe, u64),
}

impl Dialled {
    fn logged_in(self, login: LoggedIn) -> Opened {
        Opened {
            upstream: self.upstream,
            node: None,
            place: self.place,
            login,
        }
    }
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
            warm: Warm::new(&endpoint),
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
    /// user and password where `login = "client"`. What takes time is told to `laps`; `trail` is the
    /// session's.
    pub async fn open(
        &self,
        user: &User,
        hello: &Hello,
        credentials: &Credentials,
        laps: &Laps,
        trail: &Arc<Trail>,
    ) -> Result<Reached, OpenError> {
        if let Some(kept) = self.take_warm(user, hello, credentials).await {
            return Ok(kept.reached(true));
        }
        let visit = Visit {
            user,
            hello,
            credentials,
            only: None,
            laps,
            trail,
        };
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
            places: self.best_places(&user.name),
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

    /// When this is dropped, nothing is kept any more. None where nothing ever is.
    pub fn warm_guard(&self) -> Option<DropGuard> {
        self.warm.as_ref().map(Warm::guard)
    }

    /// Returns when what was kept has been let go, its guard being dropped.
    pub async fn cooled_down(&self) {
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
    ) -> Standing {
        match &opened.login {
            LoggedIn::Fixed(given) => match password {
                Some(password) if password != given => Standing::Over,
                _ => Standing::Current,
            },
            LoggedIn::Issued(recipe, generation) => credentials.standing(recipe, *generation),
            LoggedIn::Client => Standing::Over,
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
        &self,
        user: &User,
        capability: Option<u8>,
        credentials: &Credentials,
    ) -> Result<Opened, OpenError> {
        let place = match self.best_places(&user.name) {
            None => None,
            Some(best) => {
                let order = self.places.in_order(vec![best], Clone::clone, &user.name);
                Some(order.into_iter().next().ok_or(OpenError::NoAddress)?)
            }
        };
        let hello = Hello {
            user: String::new(),
            password: Secret::default(),
            capability,
        };
        let visit = Visit {
            user,
            hello: &hello,
            credentials,
            only: place.as_deref(),
            laps: &Laps::default(),
            trail: &Trail::of_none(&self.endpoint),
        };
        self.open_anew(&visit).await
    }

    async fn open_anew(&self, visit: &Visit<'_>) -> Result<Opened, OpenError> {
        match &self.endpoint.target {
            Target::FinSpace { .. } => match (&self.nodes, visit.only) {
                (Some(nodes), Some(id)) => self.open_node(nodes, id, visit).await,
                (Some(nodes), None) => self.open_any_node(nodes, visit).await,
                (None, _) => self.open_issued(None, visit).await,
            },
            Target::Addresses { login, .. } => match login {
                Login::Client => {
                    let dialled = self.dial(visit.hello, visit, Refusal::IsFinal).await?;
                    Ok(dialled.logged_in(LoggedIn::Client))
                }
                Login::Fixed {
                    user: service,
                    password_file,
                } => {
                    let password = self.password.password(password_file).await?;
                    let hello = visit.hello.with_login(service, password.clone());
                    let refusal = Refusal::Rests(Concerns::Everybody);
                    let dialled = self.dial(&hello, visit, refusal).await?;
                    Ok(dialled.logged_in(LoggedIn::Fixed(password)))
                }
                Login::Command(_) => self.open_issued(None, visit).await,
            },
            Target::Console { .. } => Err(OpenError::Console),
        }
    }

    /// The first node that can be had.
    async fn open_any_node(&self, nodes: &Listing, visit: &Visit<'_>) -> Result<Opened, OpenError> {
        let groups = visit.laps.time(OpenStage::Nodes, self.candidates(nodes));
        let groups = groups.await?;
        let user = visit.user;
        let mut tried = Tried::default();
        let mut none_given = false;
        for id in self.places.in_order(groups, Clone::clone, &user.name) {
            // Where AWS, or the cluster, gives no login for one node, asking for each of the others
            // in turn would add up: those go on whose login is at hand.
            if none_given {
                let recipe = self.recipe(user, Some(&id));
                if !recipe.is_some_and(|recipe| visit.credentials.is_ready(&recipe)) {
                    continue;
                }
            }
            match self.open_node(nodes, &id, visit).await {
                Ok(opened) => return Ok(opened),
                // The node did nothing, and another would fare no better.
                Err(error @ OpenError::Upstream(UpstreamError::Descriptors { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    none_given |= matches!(
                        &error,
                        OpenError::Credential(why) if why.retry == Retry::Soon
                    );
                    tried.failed(&format!("node {id}"), error);
                }
            }
        }
        Err(tried.into_error())
    }

    /// One node, and what comes of it.
    async fn open_node(
        &self,
        nodes: &Listing,
        id: &str,
        visit: &Visit<'_>,
    ) -> Result<Opened, OpenError> {
        let user = &visit.user.name;
        self.places.trying(id, user, self.endpoint.connect_timeout);
        let opened = self.open_issued(Some(id), visit).await;
        match &opened {
            Ok(_) => self.places.succeeded(id, user),
            // The node did nothing.
            Err(OpenError::Upstream(UpstreamError::Descriptors { .. })) => {}
            Err(error) => {
                // A login that is not given, or not taken, may be this user's trouble alone.
                let concerns = match error {
                    OpenError::Upstream(error) if error.kind() == ErrorKind::Upstream => {
                        Concerns::Everybody
                    }
                    _ => Concerns::User(user),
                };
                self.places.failed(id, concerns, &chain(error));
                nodes.doubt();
            }
        }
        opened
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
        &self,
        node: Option<&str>,
        visit: &Visit<'_>,
    ) -> Result<Opened, OpenError> {
        let (user, credentials) = (visit.user, visit.credentials);
        let recipe = self.recipe(user, node).ok_or(OpenError::NoAddress)?;
        let obtain = || {
            visit
                .laps
                .time(OpenStage::Credential, credentials.obtain(&recipe))
        };
        let mut issued = obtain().await?;
        let rejected = |error: &OpenError| {
            matches!(
                error.deciding(),
                OpenError::Upstream(UpstreamError::Rejected { .. })
            )
        };
        let dialled = match self.open_with(&issued.credential, visit).await {
            Err(error) if rejected(&error) => {
                tracing::info!(%recipe, generation = issued.generation, "kdb+ refused the login: fetching it anew");
                credentials.reject(&recipe, issued.generation);
                issued = obtain().await?;
                let opened = self.open_with(&issued.credential, visit).await;
                opened.map_err(|error| self.refused_anew(error, user))
            }
            dialled => dialled,
        };
        let opened = dialled?.logged_in(LoggedIn::Issued(recipe, issued.generation));
        Ok(match node {
            Some(id) => Opened {
                node: Some(id.to_owned()),
                place: Some(id.to_owned()),
                ..opened
            },
            None => opened,
        })
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
        visit: &Visit<'_>,
    ) -> Result<Dialled, OpenError> {
        let hello = visit
            .hello
            .with_login(&credential.user, credential.password.clone());
        let plaintext = match &self.endpoint.target {
            Target::Addresses { addresses, .. } if !addresses.is_empty() => {
                let refusal = Refusal::Rests(Concerns::User(&visit.user.name));
                return self.dial(&hello, visit, refusal).await;
            }
            Target::Addresses { plaintext, .. } | Target::FinSpace { plaintext, .. } => *plaintext,
            Target::Console { .. } => return Err(OpenError::Console),
        };
        let address = credential.address.clone().ok_or(OpenError::NoAddress)?;
        if !address.tls && !plaintext {
            return Err(OpenError::Plaintext(address));
        }
        let upstream = self.dial_one(&address, &hello, visit).await?;
        Ok(Dialled {
            upstream,
            place: None,
        })
    }

    /// The first of the endpoint's addresses that can be had.
    async fn dial(
        &self,
        hello: &Hello,
        visit: &Visit<'_>,
        refusal: Refusal<'_>,
    ) -> Result<Dialled, OpenError> {
        let Target::Addresses { addresses, .. } = &self.endpoint.target else {
            return Err(OpenError::NoAddress);
        };
        let user = visit.user;
        let name = |address: &Address| address.to_string();
        let mut tried = Tried::default();
        let order = match visit.only {
            Some(place) => {
                let named = addresses.iter().find(|address| name(address) == place);
                named.into_iter().cloned().collect()
            }
            None => self
                .places
                .in_order(vec![addresses.clone()], name, &user.name),
        };
        for address in order {
            let place = name(&address);
            let limit = self.endpoint.connect_timeout;
            self.places.trying(&place, &user.name, limit);
            let error = match self.dial_one(&address, hello, visit).await {
                Ok(upstream) => {
                    self.places.succeeded(&place, &user.name);
                    return Ok(Dialled {
                        upstream,
                        place: Some(place),
                    });
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
                    tried.refused(&place, error);
                }
                // What the client itself sent may have been too much for kdb+.
                (OpenError::Upstream(UpstreamError::Login { .. }), Refusal::IsFinal) => {
                    let concerns = Concerns::User(&user.name);
                    self.places.failed(&place, concerns, &chain(&error));
                    tried.failed(&place, error);
                }
                _ => {
                    self.places
                        .failed(&place, Concerns::Everybody, &chain(&error));
                    tried.failed(&place, error);
                }
            }
        }
        Err(tried.into_error())
    }

    async fn dial_one(
        &self,
        address: &Address,
        hello: &Hello,
        visit: &Visit<'_>,
    ) -> Result<Upstream, OpenError> {
        // A fault of the TLS set-up is none of an address that needs no TLS.
        let tls = match &self.tls {
            Ok(tls) => Some(tls),
            Err(error) if address.tls => return Err(error.clone().into()),
            Err(_) => None,
        };
        let limit = self.endpoint.connect_timeout;
        let (laps, trail) = (visit.laps, Some(visit.trail));
        Ok(upstream::open_in_laps(address, tls, hello, limit, laps, trail).await?)
    }
}

#[cfg(test)]
mod tests;
