//! hopend's configuration as typed tables: tests build it, and never edit its text.
//!
//! [`Configuration::endpoint`] and its siblings change a table that exists; `add_…` adds one.
//! [`EndpointTable`], [`UserTable`], [`EnvironmentTable`] and [`DaemonTable`] have a method for each key
//! that tests set. `key` sets any other one, and wrong ones as well.

use std::fmt;
use std::path::Path;

use toml::{Table, Value};

/// The configuration of a daemon.
#[derive(Debug, Clone, Default)]
pub struct Configuration(Table);

/// A table `[[endpoint]]`.
#[derive(Debug, Clone)]
pub struct EndpointTable(Table);

/// A table `[[user]]`.
#[derive(Debug, Clone)]
pub struct UserTable(Table);

/// A table `[environment.NAME]`.
#[derive(Debug, Clone)]
pub struct EnvironmentTable(Table);

/// The table `[daemon]`.
#[derive(Debug, Clone)]
pub struct DaemonTable(Table);

/// A change of a table, for tests with a list of changes.
pub type Change<T> = fn(T) -> T;

/// The texts of a key that takes one or several.
pub struct Texts(Vec<String>);

impl Configuration {
    /// Reads a configuration file.
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        Self(
            text.parse()
                .unwrap_or_else(|error| panic!("{error}: {text}")),
        )
    }

    /// Writes the configuration over a file, whose permissions stay.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.to_string()).unwrap();
    }

    /// Every endpoint listens on 127.0.0.1 at a port that the system chooses. So nobody else can have
    /// taken it.
    #[must_use]
    pub fn any_ports(self) -> Self {
        self.every_endpoint(|endpoint| endpoint.listen("127.0.0.1:0"))
    }

    /// Changes the endpoint with this name.
    #[must_use]
    pub fn endpoint(self, name: &str, change: impl FnOnce(EndpointTable) -> EndpointTable) -> Self {
        self.change("endpoint", name, |table| change(EndpointTable(table)).0)
    }

    /// Changes every endpoint.
    #[must_use]
    pub fn every_endpoint(mut self, change: impl Fn(EndpointTable) -> EndpointTable) -> Self {
        for table in self.tables("endpoint") {
            let old = std::mem::take(table);
            *table = change(EndpointTable(old)).0;
        }
        self
    }

    /// Changes every endpoint that leads to kdb+: all but the console.
    #[must_use]
    pub fn every_kdb_endpoint(self, change: impl Fn(EndpointTable) -> EndpointTable) -> Self {
        self.every_endpoint(|endpoint| match endpoint.0.get("kind") {
            Some(_) => endpoint,
            None => change(endpoint),
        })
    }

    /// Adds an endpoint on 127.0.0.1, at a port that the system chooses.
    #[must_use]
    pub fn add_endpoint(
        self,
        name: &str,
        build: impl FnOnce(EndpointTable) -> EndpointTable,
    ) -> Self {
        let table = EndpointTable(named(name)).listen("127.0.0.1:0");
        self.add("endpoint", build(table).0)
    }

    /// Removes the endpoint with this name.
    #[must_use]
    pub fn without_endpoint(mut self, name: &str) -> Self {
        self.array("endpoint")
            .retain(|table| !has_name(table, name));
        self
    }

    /// Removes every endpoint whose name is not in the list.
    #[must_use]
    pub fn only_endpoints(mut self, names: &[&str]) -> Self {
        let kept = |table: &Value| names.iter().any(|name| has_name(table, name));
        self.array("endpoint").retain(kept);
        self
    }

    /// Changes the user with this name.
    #[must_use]
    pub fn user(self, name: &str, change: impl FnOnce(UserTable) -> UserTable) -> Self {
        self.change("user", name, |table| change(UserTable(table)).0)
    }

    /// Changes every user.
    #[must_use]
    pub fn every_user(mut self, change: impl Fn(UserTable) -> UserTable) -> Self {
        for table in self.tables("user") {
            let old = std::mem::take(table);
            *table = change(UserTable(old)).0;
        }
        self
    }

    /// Removes the user with this name.
    #[must_use]
    pub fn without_user(mut self, name: &str) -> Self {
        self.array("user").retain(|table| !has_name(table, name));
        self
    }

    /// Adds a user.
    #[must_use]
    pub fn add_user(self, name: &str, build: impl FnOnce(UserTable) -> UserTable) -> Self {
        self.add("user", build(UserTable(named(name))).0)
    }

    /// Removes every user whose name is not in the list.
    #[must_use]
    pub fn only_users(mut self, names: &[&str]) -> Self {
        let kept = |table: &Value| names.iter().any(|name| has_name(table, name));
        self.array("user").retain(kept);
        self
    }

    /// Changes the simulator's environment.
    #[must_use]
    pub fn environment(
        mut self,
        change: impl FnOnce(EnvironmentTable) -> EnvironmentTable,
    ) -> Self {
        let environments = self.0.get_mut("environment").unwrap();
        let table = environments["sim"].as_table_mut().unwrap();
        *table = change(EnvironmentTable(std::mem::take(table))).0;
        self
    }

    /// Removes every environment.
    #[must_use]
    pub fn without_environments(mut self) -> Self {
        self.0.remove("environment");
        self
    }

    /// Changes the table `[daemon]`, or adds it.
    #[must_use]
    pub fn daemon(mut self, change: impl FnOnce(DaemonTable) -> DaemonTable) -> Self {
        let table = match self.0.remove("daemon") {
            Some(Value::Table(table)) => table,
            _ => Table::new(),
        };
        let table = change(DaemonTable(table)).0;
        self.0.insert("daemon".into(), Value::Table(table));
        self
    }

    fn change(mut self, kind: &str, name: &str, change: impl FnOnce(Table) -> Table) -> Self {
        let table = self
            .tables(kind)
            .find(|table| table.get("name").and_then(Value::as_str) == Some(name));
        let table = table.unwrap_or_else(|| panic!("no {kind} {name}"));
        *table = change(std::mem::take(table));
        self
    }

    fn add(mut self, kind: &str, table: Table) -> Self {
        self.array(kind).push(Value::Table(table));
        self
    }

    fn tables(&mut self, kind: &str) -> impl Iterator<Item = &mut Table> {
        self.array(kind).iter_mut().filter_map(Value::as_table_mut)
    }

    fn array(&mut self, kind: &str) -> &mut Vec<Value> {
        let array = self
            .0
            .entry(kind)
            .or_insert_with(|| Value::Array(Vec::new()));
        array.as_array_mut().unwrap()
    }
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&toml::to_string(&self.0).unwrap())
    }
}

/// An inline table, such as a login's.
pub fn table<V: Into<Value>, const N: usize>(keys: [(&str, V); N]) -> Value {
    let keys = keys.map(|(key, value)| (key.to_owned(), value.into()));
    Value::Table(keys.into_iter().collect())
}

fn named(name: &str) -> Table {
    Table::from_iter([("name".to_owned(), Value::from(name))])
}

fn has_name(table: &Value, name: &str) -> bool {
    table.get("name").and_then(Value::as_str) == Some(name)
}

/// A method for each key, and `key` and `without` for the others.
macro_rules! keys {
    ($table:ident { $($key:ident: $value:ty,)* }) => {
        #[allow(dead_code, reason = "each kind of table has these methods")]
        impl $table {
            $(
                #[must_use]
                pub fn $key(self, value: impl Into<$value>) -> Self {
                    let value: $value = value.into();
                    self.key(stringify!($key), value)
                }
            )*

            /// Sets any key.
            #[must_use]
            pub fn key(mut self, key: &str, value: impl Into<Value>) -> Self {
                self.0.insert(key.to_owned(), value.into());
                self
            }

            /// Removes a key.
            #[must_use]
            pub fn without(mut self, key: &str) -> Self {
                self.0.remove(key);
                self
            }

            /// Moves the value of a key to another key, such as a mistyped one.
            #[must_use]
            pub fn rename(mut self, key: &str, to: &str) -> Self {
                if let Some(value) = self.0.remove(key) {
                    self.0.insert(to.to_owned(), value);
                }
                self
            }

            /// The text of a key.
            pub fn text(&self, key: &str) -> &str {
                let value = self.0.get(key).and_then(Value::as_str);
                value.unwrap_or_else(|| panic!("no {key} in {:?}", self.0))
            }
        }
    };
}

impl EndpointTable {
    /// The texts of a key that takes several.
    pub fn texts(&self, key: &str) -> Vec<&str> {
        let value = self.0.get(key).and_then(Value::as_array);
        let texts = value.unwrap_or_else(|| panic!("no {key} in {:?}", self.0));
        texts.iter().filter_map(Value::as_str).collect()
    }

    /// A program prints the login.
    #[must_use]
    pub fn login_command(self, program: &Path) -> Self {
        let command = vec![program.to_str().unwrap().to_owned()];
        self.login(table([("command", command)]))
    }
}

keys!(EndpointTable {
    listen: Texts,
    expose: bool,
    tls: Value,
    cluster: String,
    node: String,
    node_via: String,
    users: Texts,
    default_user_names: Texts,
    keepalive: Value,
    connect: Texts,
    policy: String,
    failover_after: String,
    login: Value,
    ca_file: String,
    max_message: String,
    max_handshake: i64,
    handshake_timeout: String,
    connect_timeout: String,
    max_sessions: i64,
    max_opens_per_second: i64,
    idle_timeout: String,
    max_session_time: String,
    errors: String,
    warm: i64,
});

keys!(UserTable {
    name: String,
    os_user: String,
    password: String,
    kx_user: String,
    role_arn: String,
    console: bool,
    certificate: String,
    max_sessions: i64,
});

keys!(EnvironmentTable {
    profile: String,
    credentials_file: String,
    endpoint_url: String,
    sts_endpoint_url: String,
});

keys!(DaemonTable {
    admin: Value,
    viewers: Texts,
    log: String,
    audit: String,
    drain: String,
    control: String,
    zone: String,
    max_sessions: i64,
    max_memory: String,
    confine: String,
    on_removal: String,
});

impl From<Texts> for Value {
    fn from(texts: Texts) -> Self {
        Self::from(texts.0)
    }
}

impl From<&str> for Texts {
    fn from(text: &str) -> Self {
        Self(vec![text.to_owned()])
    }
}

impl From<&String> for Texts {
    fn from(text: &String) -> Self {
        Self(vec![text.clone()])
    }
}

impl From<String> for Texts {
    fn from(text: String) -> Self {
        Self(vec![text])
    }
}

impl<S: Into<String>> From<Vec<S>> for Texts {
    fn from(texts: Vec<S>) -> Self {
        Self(texts.into_iter().map(Into::into).collect())
    }
}

impl<S: Into<String>, const N: usize> From<[S; N]> for Texts {
    fn from(texts: [S; N]) -> Self {
        Self(texts.map(Into::into).to_vec())
    }
}
