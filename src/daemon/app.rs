//! The daemon: configuration, binding, serving, reloading, draining.

mod prepare;
mod reloads;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::DropGuard;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::config::MachineMemory;
use crate::config::{
    self, AccountDatabase, Config, Daemon, Endpoint, LeftOut, LeftOutCause, ListenAddress, Loaded,
};
use crate::console::Lists;
use crate::credential::{Clock, Credentials, ExternalSource, Sources};
use crate::daemon::confine::Confinement;
use crate::daemon::listener::{
    self, AddressState, BindError, HeldSockets, Listener, Passed, Served, UnboundAddress,
};
use crate::daemon::memory;
use crate::daemon::service::{self, watchdog};
use crate::daemon::workers::Workers;
use crate::identity::account_lookup;
use crate::identity::{Authenticator, Penalties};
use crate::limits::{self, Limits};
use crate::primitives::lines::LostLines;
use crate::primitives::stop::Stop;
use crate::route::Route;
use crate::route::nodes::Nodes;
use crate::session::{self, Services, SessionNumbers};
use crate::surface::admin::{Admin, PreparedAdmin};
use crate::surface::control::{BoundControl, Control};
use crate::surface::status::Status;
use crate::telemetry::audit::{AuditFile, AuditFileError, Repeats};
use crate::telemetry::live::{Grants, Live, Looks, Shown};
use base::error::{chain, with_fix, with_note};
use prepare::{
    ControlChange, FreshListener, KnownEndpoint, KnownListener, NotPrepared, Preparation, Prepared,
    Ready, prepare,
};
use reloads::{Outcome, Reloads};

/// After the cut, how long sessions may take to let go of their sockets.
const CUT_GRACE: Duration = Duration::from_secs(5);
const _: () = assert!(
    session::CUT_LASTS.as_nanos() < CUT_GRACE.as_nanos(),
    "a session that is cut must end within the grace"
);

/// What the daemon is told while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Read the configuration again (SIGHUP).
    Reload,
    /// Drain and end (SIGTERM, SIGINT).
    Stop,
}

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// hopend listens nowhere, and no other account is to blame for it.
    #[error("no address could be bound; the first: {}", chain(.0))]
    NothingBound(BindError),
    /// There is to be an audit file.
    #[error(transparent)]
    Audit(#[from] AuditFileError),
}

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// A new audit file.
    #[error(transparent)]
    Audit(#[from] AuditFileError),
}

/// How the daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Sessions that were open when the drain began.
    pub open: usize,
    /// Sessions that had to be cut at its end.
    pub cut: usize,
}

/// What the process was given before there was a daemon in it.
#[derive(Debug, Default)]
pub struct Given {
    /// The service manager's sockets.
    pub passed: Passed,
    /// What it may do.
    pub confinement: Confinement,
    /// Where accounts are looked up.
    pub accounts: AccountDatabase,
    /// Counts the lines that the process's log has lost.
    pub lost_log_lines: LostLines,
    /// How much memory the system lets it have.
    pub machine: MachineMemory,
}

/// Runs the daemon until it is told to stop: the whole story in one place.
pub async fn run(
    path: &Path,
    loaded: Loaded,
    given: Given,
    orders: mpsc::Receiver<Order>,
) -> Result<Summary, AppError> {
    limits::files::raise();
    let workers = Workers::start();
    let workers = workers
        .inspect_err(|error| tracing::warn!("sessions share one runtime: {error}"))
        .ok();
    let sources = Arc::new(Sources::default());
    let app = App::start_on(workers, given, loaded, sources, Clock::system())?;
    Ok(serve(app, path, orders).await)
}

/// Serves until told to stop, then drains. `path` is read again on [`Order::Reload`].
pub async fn serve(app: App, path: &Path, orders: mpsc::Receiver<Order>) -> Summary {
    let services = Arc::clone(&app.services);
    let turn = async || {
        // The runtime of this task, then those of the sessions. The task itself turns if it gets here.
        let _ = tokio::spawn(async {}).await;
        if let Some(workers) = &services.workers {
            workers.turn().await;
        }
    };
    tokio::select! {
        summary = follow(app, path, orders) => summary,
        never = watchdog::feed(turn) => match never {},
        never = memory::trim_after(&services.sessions) => match never {},
    }
}

async fn follow(mut app: App, path: &Path, mut orders: mpsc::Receiver<Order>) -> Summary {
    for (endpoint, address) in app.addresses() {
        tracing::info!(endpoint, %address, "listening");
    }
    service::ready(&app.summary());
    tracing::info!(endpoints = app.config.endpoints.len(), "ready");
    let mut reloads = Reloads::of(path);
    loop {
        tokio::select! {
            // A stop wins, whatever a reload waits for.
            biased;
            order = orders.recv() => match order {
                Some(Order::Reload) => begin(&mut reloads, &app),
                Some(Order::Stop) | None => break,
            },
            outcome = reloads.next() => {
                match outcome {
                    Outcome::Prepared(prepared) => reloaded(&mut app, *prepared),
                    Outcome::NotPrepared(why) => not_reloaded(&app, why),
                    Outcome::GivenUp => {}
                }
                if reloads.is_asked_again() {
                    begin(&mut reloads, &app);
                }
            }
        }
    }
    drop(reloads);
    service::stopping(&format!(
        "draining {} sessions for up to {} s",
        app.services.tasks.len(),
        app.config.daemon.drain.as_secs()
    ));
    app.stop().await
}

fn begin(reloads: &mut Reloads, app: &App) {
    if reloads.ask(|| app.preparation()) {
        service::reloading();
    }
}

fn reloaded(app: &mut App, prepared: Prepared) {
    let changes = app.swap(prepared);
    tracing::info!(
        sessions_ended = changes.sessions_ended,
        "reloaded: {changes}"
    );
    service::ready(&app.summary());
}

fn not_reloaded(app: &App, why: NotPrepared) {
    let why = match why {
        NotPrepared::File(problems) => {
            // With file and line, as a start prints them.
            for problem in problems.to_string().lines() {
                tracing::error!("{problem}");
            }
            "the configuration is not right".to_owned()
        }
        NotPrepared::Reason(why) => why,
    };
    tracing::error!("reload changed nothing: {why}");
    service::ready(&format!(
        "{}; the last reload changed nothing: {why}",
        app.summary()
    ));
}

/// A running daemon.
#[derive(Debug)]
pub struct App {
    config: Config,
    services: Arc<Services>,
    nodes: Nodes,
    stop: Stop,
    endpoints: HashMap<String, Running>,
    listeners: HashMap<Key, Bound>,
    passed: Arc<Passed>,
    confinement: Arc<Confinement>,
    accounts: AccountDatabase,
    /// What the configuration has and the daemon does not serve.
    left_out: Vec<LeftOut>,
    /// Asks for the accounts that are not known yet.
    resolving: Option<AbortOnDropHandle<()>>,
    machine: MachineMemory,
    /// The control socket, if it could be bound.
    control: Option<Control>,
    /// The admin address, if there is one.
    admin: Option<Admin>,
}

/// One endpoint with what its listeners share.
#[derive(Debug, Clone)]
struct Running {
    endpoint: Arc<Endpoint>,
    /// The endpoint's authorities, as their file held them: it may change under its name.
    authorities: Option<Vec<u8>>,
    served: Served,
    /// Has the credentials of new nodes fetched.
    _expecting: Option<Arc<AbortOnDropHandle<()>>>,
    /// Has its probes and its warm connections end with it.
    in_service: Option<Arc<DropGuard>>,
}

impl Running {
    fn known(&self) -> KnownEndpoint {
        KnownEndpoint {
            endpoint: Arc::clone(&self.endpoint),
            authorities: self.authorities.clone(),
            certificates: self.served.tls.clone(),
        }
    }
}

/// What makes a listener the same one across a reload: its address, and for port 0 whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    address: ListenAddress,
    chosen_for: Option<(String, usize)>,
}

#[derive(Debug)]
struct Bound {
    endpoint: String,
    state: watch::Receiver<AddressState>,
    /// Its sockets, while it is bound.
    held: HeldSockets,
    served: watch::Sender<Served>,
    task: JoinHandle<()>,
}

impl Bound {
    fn known(&self) -> KnownListener {
        KnownListener {
            bound: self.state.borrow().bound().cloned(),
            held: self.held.clone(),
        }
    }
}

/// What a reload changed, by endpoint name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// New endpoints.
    pub added: Vec<String>,
    /// Endpoints whose next sessions are served otherwise.
    pub changed: Vec<String>,
    /// Endpoints that accept no more.
    pub removed: Vec<String>,
    /// Sessions that were told to end, as their users have lost access.
    pub sessions_ended: usize,
}

impl App {
    /// Binds every endpoint and begins to serve. An address that can't be bound keeps nobody else
    /// from starting: it is tried again until it can. Must be called within a tokio runtime.
    pub fn start(
        config: impl Into<Loaded>,
        source: Arc<dyn ExternalSource>,
        clock: Clock,
    ) -> Result<Self, AppError> {
        Self::start_on(None, Given::default(), config.into(), source, clock)
    }

    /// The same, with sessions on runtimes of their own, and with what the process was given: an
    /// address that was passed is not bound again.
    pub fn start_on(
        workers: Option<Workers>,
        given: Given,
        loaded: Loaded,
        source: Arc<dyn ExternalSource>,
        clock: Clock,
    ) -> Result<Self, AppError> {
        let Loaded {
            config, left_out, ..
        } = loaded;
        let services = Arc::new(Services {
            authenticator: Authenticator::default(),
            penalties: Penalties::default(),
            credentials: Credentials::new(Arc::clone(&source) as _, clock),
            tasks: TaskTracker::new(),
            workers,
            sessions: SessionNumbers::of_this_run(),
            live: Live::default(),
            looks: Looks::default(),
            lists: Lists::new(Arc::clone(&source) as _),
            limits: Limits::default(),
            audit: AuditFile::default(),
            lost_log_lines: given.lost_log_lines,
            repeats: Repeats::default(),
        });
        let audit = services.audit.prepare(config.daemon.audit.as_deref())?;
        services.audit.take_over(audit);
        let nodes = Nodes::new(source);
        tell_zone(&config, &nodes);
        let ready = prepare(&config, |_| None, &nodes, &services).into_iter();
        let endpoints = ready.filter_map(|(name, ready)| match ready {
            Ready::Fresh(running) => Some((name, running)),
            Ready::AsBefore => None,
        });
        let mut passed = given.passed;
        let wanted = keys(&config).into_iter();
        let mut bound: Vec<_> = wanted
            .rev()
            .map(|(key, endpoint)| {
                let bound = Listener::with(&passed.sockets().collect(), &key.address);
                (key, endpoint, bound)
            })
            .collect();
        let failures = bound
            .iter()
            .filter_map(|(_, _, bound)| bound.as_ref().err());
        let own = failures
            .filter(|error| !error.is_taken_by_another_account() && !error.lacks_directory())
            .count();
        if own == bound.len()
            && let Some((_, _, Err(first))) = bound.pop()
        {
            return Err(AppError::NothingBound(first));
        }
        let listens = |socket: &ListenAddress| {
            let mut listeners = bound.iter().filter_map(|(_, _, bound)| bound.as_ref().ok());
            listeners.any(|listener| listener.address().includes(socket))
        };
        for unused in passed.close_stored(listens) {
            service::remove_stored(&unused);
        }
        let mut app = Self {
            stop: Stop::default(),
            endpoints: endpoints.collect(),
            services,
            nodes,
            listeners: HashMap::new(),
            passed: Arc::new(passed),
            confinement: Arc::new(given.confinement),
            accounts: given.accounts,
            left_out,
            resolving: None,
            machine: given.machine,
            control: None,
            admin: None,
            config,
        };
        for (key, endpoint, bound) in bound.into_iter().rev() {
            app.listen(key, endpoint, bound);
        }
        let control = app.config.daemon.control.as_deref();
        let control = control.and_then(BoundControl::bind);
        app.control = control.map(|bound| Control::serve(bound, &app.services));
        let Daemon { admin, viewers, .. } = &app.config.daemon;
        let admin = PreparedAdmin::of(admin.as_ref(), viewers, None);
        app.taken_over();
        app.serve_admin(admin);
        Ok(app)
    }

    /// Every address that is bound, with its endpoint's name.
    pub fn addresses(&self) -> Vec<(String, ListenAddress)> {
        let bound = self.listeners.values();
        let mut addresses: Vec<_> = bound
            .filter_map(|bound| {
                Some((
                    bound.endpoint.clone(),
                    bound.state.borrow().bound()?.clone(),
                ))
            })
            .collect();
        addresses.sort_by_cached_key(|(endpoint, address)| (endpoint.clone(), address.to_string()));
        addresses
    }

    /// What a reload needs to know of it.
    fn preparation(&self) -> Preparation {
        let endpoints = self.endpoints.iter();
        let listeners = self.listeners.iter();
        Preparation {
            endpoints: endpoints
                .map(|(name, running)| (name.clone(), running.known()))
                .collect(),
            listeners: listeners
                .map(|(key, bound)| (key.clone(), bound.known()))
                .collect(),
            passed: Arc::clone(&self.passed),
            confinement: Arc::clone(&self.confinement),
            accounts: self.accounts.clone(),
            control: self.control.as_ref().map(Control::socket),
            admin: self.admin.as_ref().map(Admin::known),
            nodes: self.nodes.clone(),
            services: Arc::clone(&self.services),
        }
    }

    /// Tells what is left out, and goes on asking for the accounts that are not known yet.
    fn leave_out(&mut self) {
        for left_out in &self.left_out {
            match left_out.cause {
                LeftOutCause::AccountUnknown(_) => tracing::warn!("{left_out}"),
                _ => tracing::error!("{left_out}"),
            }
        }
        self.services.live.leaves_out(self.left_out.clone());
        let resolving = account_lookup::resolve(self.left_out.clone(), self.accounts.clone());
        self.resolving = Some(AbortOnDropHandle::new(tokio::spawn(resolving)));
    }

    /// What it does, in a line.
    fn summary(&self) -> String {
        let left_out = match self.services.live.left_out().len() {
            0 => String::new(),
            1 => "; 1 part of the configuration is left out or stays as it was".into(),
            count => {
                format!("; {count} parts of the configuration are left out or stay as they were")
            }
        };
        let bound = self.addresses().len();
        let unbound = match self.listeners.len() - bound {
            0 => String::new(),
            count => format!("; {count} could not be bound (hopend status)"),
        };
        let endpoints = self.config.endpoints.len();
        format!("serving {endpoints} endpoints at {bound} addresses{unbound}{left_out}")
    }

    /// Serves health over HTTP at the address that the configuration names.
    fn serve_admin(&mut self, prepared: PreparedAdmin) {
        match (prepared, &self.admin) {
            (PreparedAdmin::None, _) => self.admin = None,
            (PreparedAdmin::Stays(audience), Some(admin)) => admin.show_to(audience),
            // It was served when the reload was prepared, and nothing else takes it away.
            (PreparedAdmin::Stays(_), None) => {}
            (PreparedAdmin::Fresh(bound), _) => {
                let (stopping, services) = (self.stop.listen(), Arc::clone(&self.services));
                self.admin = Some(Admin::start(bound, stopping, services));
            }
        }
    }

    /// What the sessions share.
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// What it shows of itself. Blocks, as [`Services::status`] does.
    pub fn status(&self) -> Status {
        self.services.status()
    }

    /// Takes another configuration over. Endpoints that are the same go on as they are, and no live
    /// session ends whose user has not lost access. An address that can't be bound is tried again, as at
    /// a start. Blocks while it reads files.
    ///
    /// # Errors
    /// When the audit file can't be opened. Nothing has changed then.
    pub fn reload(&mut self, loaded: impl Into<Loaded>) -> Result<Changes, ReloadError> {
        let prepared = self.preparation().of(loaded.into())?;
        Ok(self.swap(prepared))
    }

    /// Serves what has been prepared from here on. Waits for nothing.
    fn swap(&mut self, prepared: Prepared) -> Changes {
        let Prepared {
            loaded,
            endpoints,
            fresh,
            audit,
            control,
            admin,
        } = prepared;
        self.services.audit.take_over(audit);
        tell_zone(&loaded.config, &self.nodes);
        let grants = Grants::of(&loaded);
        let Loaded {
            config, left_out, ..
        } = loaded;
        let mut old = std::mem::take(&mut self.endpoints);
        let mut changes = Changes::default();
        for (name, ready) in endpoints {
            let before = old.remove(&name);
            let running = match (ready, before) {
                (Ready::AsBefore, Some(before)) => before,
                // It was there when the reload was prepared, and nothing else takes it away.
                (Ready::AsBefore, None) => continue,
                (Ready::Fresh(running), Some(_)) => {
                    changes.changed.push(name.clone());
                    running
                }
                (Ready::Fresh(running), None) => {
                    changes.added.push(name.clone());
                    running
                }
            };
            self.endpoints.insert(name, running);
        }
        changes.removed.extend(old.into_keys());
        changes.added.sort();
        changes.changed.sort();
        changes.removed.sort();
        warn_of_late(&self.config.daemon, &config.daemon);
        self.config = config;
        self.left_out = left_out;

        let wanted: HashMap<_, _> = keys(&self.config).into_iter().collect();
        for FreshListener {
            key,
            endpoint,
            bound,
        } in fresh
        {
            match (self.listeners.get(&key), &bound) {
                // It is being tried already.
                (Some(_), Err(_)) => continue,
                (Some(trying), Ok(_)) => trying.task.abort(),
                (None, _) => {}
            }
            self.listen(key, endpoint, bound);
        }
        // An endpoint gives no address up while it lacks another one: it would be reached nowhere, and another
        // account could take the address.
        let lacking = self.listeners.iter().filter(|(key, bound)| {
            wanted.contains_key(key) && bound.state.borrow().unbound().is_some()
        });
        let lacking: HashSet<String> = lacking.map(|(_, bound)| bound.endpoint.clone()).collect();
        self.listeners.retain(|key, bound| {
            let is_bound = bound.state.borrow().bound().is_some();
            let kept = lacking.contains(&bound.endpoint) && is_bound;
            let stays = wanted.contains_key(key) || kept;
            if !stays {
                bound.task.abort();
                bound.held.give_up();
            } else if !wanted.contains_key(key) {
                tracing::warn!(
                    endpoint = bound.endpoint,
                    "goes on listening at {}, which the configuration no longer has, because another \
                     address is not bound. Fix: see the error above, then reload.",
                    key.address
                );
            }
            stays
        });
        for (key, bound) in &mut self.listeners {
            if let Some(endpoint) = wanted.get(key) {
                bound.endpoint.clone_from(endpoint);
            }
            if let Some(running) = self.endpoints.get(&bound.endpoint) {
                bound.served.send_if_modified(|now| {
                    let same = Arc::ptr_eq(&now.route, &running.served.route);
                    *now = running.served.clone();
                    !same
                });
            }
        }
        match control {
            ControlChange::Stays => {}
            ControlChange::None => self.control = None,
            ControlChange::Fresh(bound) => {
                self.control = Some(Control::serve(bound, &self.services));
            }
        }
        self.taken_over();
        self.serve_admin(admin);
        // Behind the swap: those who are let in from here on are so by the new configuration.
        changes.sessions_ended = self.services.live.grants(grants);
        changes
    }

    /// Accepts no more, lets what is outstanding finish within the drain, cuts the rest.
    /// Credentials work until the end.
    pub async fn stop(mut self) -> Summary {
        // First: whoever sees a session end finds that nobody is let in any more.
        for bound in self.listeners.values() {
            bound.task.abort();
            bound.held.close();
        }
        for (_, bound) in self.listeners.drain() {
            let _ = bound.task.await;
        }
        for running in self.endpoints.values_mut() {
            drop(running.in_service.take());
        }
        let tasks = &self.services.tasks;
        let open = tasks.len();
        let limit = self.config.daemon.drain;
        tracing::info!(sessions = open, drain_s = limit.as_secs(), "stopping");
        self.stop.drain();
        tasks.close();
        let mut cut = 0;
        if timeout(limit, tasks.wait()).await.is_err() {
            cut = tasks.len();
            self.stop.cut();
            // A task that does not end even then ends with the process.
            let _ = timeout(CUT_GRACE, tasks.wait()).await;
        }
        let endpoints = self.endpoints.values();
        join_all(endpoints.map(|running| running.served.route.cooled_down())).await;
        // Until here it could be asked what the drain waits for.
        if let Some(control) = self.control.take() {
            control.stop().await;
        }
        self.services.repeats.tell_all(&self.services.audit);
        self.services.audit.stop().await;
        tracing::info!(sessions = open, cut, "stopped");
        Summary { open, cut }
    }

    fn listen(&mut self, key: Key, endpoint: String, bound: Result<Listener, BindError>) {
        let Some(running) = self.endpoints.get(&endpoint) else {
            return;
        };
        if let Err(error) = &bound {
            tracing::error!(endpoint, "{}", with_note(error, "hopend goes on trying"));
        }
        let sender = watch::Sender::new(running.served.clone());
        let served = sender.subscribe();
        let (services, stopping) = (Arc::clone(&self.services), self.stop.listen());
        let held = HeldSockets::default();
        let state = match &bound {
            Ok(listener) => {
                held.hold(listener, &self.passed);
                AddressState::Bound(listener.address().clone())
            }
            Err(error) => AddressState::Unbound(UnboundAddress::now(error)),
        };
        let state = watch::Sender::new(state);
        let seen = state.subscribe();
        let binding = listener::Binding {
            passed: Arc::clone(&self.passed),
            held: held.clone(),
            blocking: Handle::current(),
        };
        // Where sessions run, so that a client need not be moved there.
        let runtime = match &self.services.workers {
            Some(workers) => workers.any().clone(),
            None => Handle::current(),
        };
        let task = runtime.spawn(async move {
            let listener = match bound.map(Listener::moved_here) {
                Ok(listener) => listener,
                Err(_) => {
                    let mut stopping = stopping.clone();
                    tokio::select! {
                        listener = binding.bind_when_free(&state) => listener.moved_here(),
                        () = stopping.draining() => return,
                    }
                }
            };
            match listener {
                Ok(listener) => {
                    state.send_replace(AddressState::Bound(listener.address().clone()));
                    listener::run(listener, served, services, stopping).await;
                }
                Err(error) => {
                    state.send_if_modified(|state| state.is_lost(&error));
                    tracing::error!("a listening socket was lost: {error}. Fix: restart hopend.");
                }
            }
        });
        let bound = Bound {
            endpoint,
            state: seen,
            held,
            served: sender,
            task,
        };
        self.listeners.insert(key, bound);
    }

    /// The configuration counts from here on: shows its endpoints and has their credentials fetched.
    fn taken_over(&mut self) {
        self.services.limits.take_over(&self.config, self.machine);
        self.leave_out();
        let keys = keys(&self.config);
        let addresses = keys
            .iter()
            .map(|(key, name)| (key.address.clone(), name.clone()));
        for misfit in self.passed.misfits(&addresses.collect::<Vec<_>>()) {
            tracing::warn!("{misfit}");
        }
        let endpoints = self.config.endpoints.iter().filter_map(|endpoint| {
            let running = self.endpoints.get(&endpoint.name)?;
            let of_endpoint = keys.iter().filter(|(_, name)| *name == endpoint.name);
            let addresses = of_endpoint.filter_map(|(key, _)| self.listeners.get(key));
            // Those that it keeps although the configuration no longer has them.
            let wanted = |key: &Key| keys.iter().any(|(wanted, _)| wanted == key);
            let kept = self
                .listeners
                .iter()
                .filter(|(key, bound)| bound.endpoint == endpoint.name && !wanted(key));
            let addresses = addresses.chain(kept.map(|(_, bound)| bound));
            let addresses = addresses.map(|bound| bound.state.clone());
            Some(Shown {
                route: Arc::clone(&running.served.route),
                listen: addresses.collect(),
            })
        });
        self.services.live.serves(endpoints.collect());
        self.expect_credentials();
        let wanted = self.services.live.recipes();
        let credentials = &self.services.credentials;
        credentials.forget(|recipe| !wanted.contains(recipe));
    }

    /// Has the credentials of every endpoint and user fetched that are known beforehand.
    fn expect_credentials(&self) {
        for running in self.endpoints.values() {
            let route = &running.served.route;
            for user in &running.endpoint.users {
                for recipe in route.recipes(user) {
                    self.services.credentials.expect(&recipe);
                }
            }
        }
    }
}

/// What only a start takes over.
fn warn_of_late(old: &Daemon, new: &Daemon) {
    let keys = [
        ("log", old.log != new.log),
        ("confine", old.confine != new.confine),
    ];
    let changed = keys.iter().filter(|(_, changed)| *changed);
    let changed: Vec<_> = changed.map(|(key, _)| *key).collect();
    if !changed.is_empty() {
        tracing::warn!("[daemon] {}: a change takes a restart", changed.join(", "));
    }
}

/// Passwords that cross a network as they are.
fn warn_of_plain(endpoint: &Endpoint) {
    let exposed = endpoint.listen.iter().find(|address| !address.is_local());
    if let (Some(address), None) = (exposed, &endpoint.tls) {
        tracing::warn!(
            endpoint = endpoint.name,
            %address,
            "{}",
            with_fix(config::PLAIN, config::PLAIN_REMEDY)
        );
    }
}

/// Socket files that nobody can dial.
fn warn_of_hidden(endpoint: &Endpoint) {
    let paths = endpoint.listen.iter().filter_map(|address| match address {
        ListenAddress::Path(path) => Some(path),
        _ => None,
    });
    for path in paths.filter(|path| service::alone_sees(path)) {
        tracing::warn!(
            endpoint = endpoint.name,
            address = %path.display(),
            "nobody else can dial this: the service has a folder of its own there. Fix: set PrivateTmp=no \
             (systemctl edit hopend)."
        );
    }
}

impl Drop for App {
    fn drop(&mut self) {
        for bound in self.listeners.values() {
            bound.task.abort();
        }
    }
}

/// Which zone `node = "zone"` goes by.
fn tell_zone(config: &Config, nodes: &Nodes) {
    let by_zone = |endpoint: &Arc<Endpoint>| endpoint.target.node() == Some(&config::Node::Zone);
    nodes.tell_zone(
        config.daemon.zone.as_deref(),
        config.endpoints.iter().any(by_zone),
    );
}

/// Has the credentials fetched that the nodes of a list need, as the list changes, and those of nodes
/// that are gone forgotten.
async fn expect_nodes(route: Arc<Route>, services: Arc<Services>) {
    let Some(mut listing) = route.listing().cloned() else {
        return;
    };
    let mut expected = HashSet::new();
    loop {
        listing.changed().await;
        let users = route.endpoint().users.iter();
        let recipes: HashSet<_> = users.flat_map(|user| route.recipes(user)).collect();
        for recipe in recipes.difference(&expected) {
            services.credentials.expect(recipe);
        }
        let gone: HashSet<_> = expected.difference(&recipes).collect();
        if !gone.is_empty() {
            // Another endpoint may have named one of them.
            let wanted = services.live.recipes();
            let useless = |recipe: &_| gone.contains(recipe) && !wanted.contains(recipe);
            services.credentials.forget(useless);
        }
        expected = recipes;
    }
}

fn keys(config: &Config) -> Vec<(Key, String)> {
    let mut keys = Vec::new();
    for endpoint in &config.endpoints {
        for (ordinal, address) in endpoint.listen.iter().enumerate() {
            let key = Key {
                address: address.clone(),
                chosen_for: address
                    .has_any_port()
                    .then(|| (endpoint.name.clone(), ordinal)),
            };
            keys.push((key, endpoint.name.clone()));
        }
    }
    keys
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = false;
        for (what, names) in [
            ("added", &self.added),
            ("changed", &self.changed),
            ("removed", &self.removed),
        ] {
            if !names.is_empty() {
                let separator = if said { ", " } else { "" };
                write!(f, "{separator}{what} {}", names.join(" "))?;
                said = true;
            }
        }
        if !said {
            f.write_str("no endpoint changed")?;
        }
        match self.sessions_ended {
            0 => Ok(()),
            1 => f.write_str("; 1 session ends, as its user has lost access"),
            count => write!(f, "; {count} sessions end, as their users have lost access"),
        }
    }
}
