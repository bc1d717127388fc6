//! The requests that a console answers, parsed from the values that a q client sends.
//!
//! A request is a name with its arguments. The client sends a text
//! (`.aws.list_kx_cluster_nodes["hdb-cluster"]`), a symbol, or a list of the name and the arguments, as
//! `h(name;argument)` does. The console evaluates no q.

use q_ipc::value::Value;

/// The requests that exist, for error messages.
pub(super) const REQUESTS: &str = "endpoints, addresses, sessions, credentials, errors, \
    .aws.list_kx_clusters[], .aws.list_kx_cluster_nodes[cluster], \
    .aws.get_kx_connection_string[cluster] and .aws.get_kx_node_connection_string[cluster;node]";

/// The longest name of a cluster, in characters. Ids of nodes are shorter.
const MAX_NAME_LENGTH: usize = 63;

/// A request of a q client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ConsoleRequest {
    /// The empty text, or `::`.
    Nothing,
    /// One of hopend's own tables.
    Table(StatusTable),
    /// `.aws.list_kx_clusters[]`.
    Clusters,
    /// `.aws.list_kx_cluster_nodes[cluster]`.
    Nodes { cluster: String },
    /// `.aws.get_kx_connection_string[cluster]`.
    ConnectionString { cluster: String },
    /// `.aws.get_kx_node_connection_string[cluster;node]`.
    NodeConnectionString { cluster: String, node: String },
}

/// A table of hopend's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StatusTable {
    Endpoints,
    Addresses,
    Sessions,
    Credentials,
    Errors,
}

impl ConsoleRequest {
    /// Parses a request.
    ///
    /// # Errors
    /// No such request exists, or its arguments are wrong. The text is the answer for the client.
    pub(super) fn parse(value: &Value) -> Result<Self, String> {
        match value {
            &Value::NULL => return Ok(Self::Nothing),
            Value::Chars(text) if text.trim_ascii().is_empty() => return Ok(Self::Nothing),
            _ => {}
        }
        let call = FunctionCall::parse(value).ok_or_else(unknown_request)?;
        let name = call.name.as_str();
        let table = match name {
            "endpoints" => Some(StatusTable::Endpoints),
            "addresses" => Some(StatusTable::Addresses),
            "sessions" => Some(StatusTable::Sessions),
            "credentials" => Some(StatusTable::Credentials),
            "errors" => Some(StatusTable::Errors),
            _ => None,
        };
        let arguments = call.names();
        match (name, table, arguments.as_slice()) {
            (_, Some(table), []) => Ok(Self::Table(table)),
            (".aws.list_kx_clusters", _, []) => Ok(Self::Clusters),
            (".aws.list_kx_cluster_nodes", _, [cluster]) => Ok(Self::Nodes {
                cluster: check_name(cluster)?,
            }),
            (".aws.get_kx_connection_string", _, [cluster]) => Ok(Self::ConnectionString {
                cluster: check_name(cluster)?,
            }),
            (".aws.get_kx_node_connection_string", _, [cluster, node]) => {
                Ok(Self::NodeConnectionString {
                    cluster: check_name(cluster)?,
                    node: check_name(node)?,
                })
            }
            (name, Some(_), _) | (name @ ".aws.list_kx_clusters", ..) => {
                Err(format!("{name} takes no argument. Fix: ask for {name}[]."))
            }
            (name @ (".aws.list_kx_cluster_nodes" | ".aws.get_kx_connection_string"), ..) => {
                Err(format!(
                    "{name} takes a cluster's name. Fix: name one, as in {name}[\"hdb-cluster\"]."
                ))
            }
            (name @ ".aws.get_kx_node_connection_string", ..) => Err(format!(
                "{name} takes a cluster's name and a node's id. Fix: list the ids with \
                 .aws.list_kx_cluster_nodes."
            )),
            _ => Err(unknown_request()),
        }
    }
}

fn unknown_request() -> String {
    format!("a console evaluates no q. Fix: ask it for {REQUESTS}.")
}

/// Returns the text if it can be the name of a cluster or the id of a node.
fn check_name(name: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if (1..=MAX_NAME_LENGTH).contains(&name.len()) && name.chars().all(allowed) {
        return Ok(name.to_owned());
    }
    Err(format!(
        "that is no name of a cluster or node: they have up to {MAX_NAME_LENGTH} letters, digits, \
         hyphens and underscores. Fix: list the clusters with .aws.list_kx_clusters[]."
    ))
}

/// A name, and the arguments that follow it.
#[derive(Debug, PartialEq, Eq)]
struct FunctionCall {
    name: String,
    arguments: Vec<CallArgument>,
}

#[derive(Debug, PartialEq, Eq)]
enum CallArgument {
    /// `::`, which q sends for no argument.
    Null,
    /// A string or a symbol.
    Name(String),
}

impl FunctionCall {
    /// Returns `None` if the value is not a call of this form.
    fn parse(value: &Value) -> Option<Self> {
        let (name, arguments) = match value {
            Value::Chars(text) => return Self::parse_text(&String::from_utf8_lossy(text)),
            Value::Symbol(name) => (name.clone(), Vec::new()),
            Value::Symbols(names) => {
                let (name, arguments) = names.split_first()?;
                let arguments = arguments.iter().cloned().map(CallArgument::Name);
                (name.clone(), arguments.collect())
            }
            Value::List(items) => {
                let (name, arguments) = items.split_first()?;
                let arguments: Option<_> = arguments.iter().map(CallArgument::from_value).collect();
                (name.as_text()?, arguments?)
            }
            _ => return None,
        };
        let name = name.trim().to_owned();
        Some(Self { name, arguments })
    }

    /// Parses `name`, `name[…]`, `name "…"` or ``name`…``. Semicolons may follow.
    fn parse_text(text: &str) -> Option<Self> {
        let text = text.trim_end_matches(|c: char| c == ';' || c.is_whitespace());
        let text = text.trim_start();
        let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_'));
        let (name, rest) = text.split_at(end.unwrap_or(text.len()));
        let rest = rest.trim_start();
        let arguments = match rest.strip_prefix('[') {
            Some(inside) => parse_bracketed(inside)?,
            None if rest.is_empty() => Vec::new(),
            None => match parse_literal(rest)? {
                (argument, "") => vec![argument],
                _ => return None,
            },
        };
        Some(Self {
            name: name.to_owned(),
            arguments,
        })
    }

    /// The arguments as names. Empty if any argument is null.
    fn names(&self) -> Vec<String> {
        let names: Option<_> = self.arguments.iter().map(CallArgument::name).collect();
        names.unwrap_or_default()
    }
}

impl CallArgument {
    /// Returns `None` if the value cannot be an argument.
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            &Value::NULL => Some(Self::Null),
            other => other.as_text().map(Self::Name),
        }
    }

    fn name(&self) -> Option<String> {
        match self {
            Self::Null => None,
            Self::Name(name) => Some(name.clone()),
        }
    }
}

/// Parses the arguments after an opening bracket, and the closing bracket.
fn parse_bracketed(inside: &str) -> Option<Vec<CallArgument>> {
    let mut rest = inside.trim_start();
    if rest == "]" {
        return Some(Vec::new());
    }
    let mut arguments = Vec::new();
    loop {
        let (argument, after) = parse_literal(rest)?;
        arguments.push(argument);
        let after = after.trim_start();
        if after == "]" {
            return Some(arguments);
        }
        rest = after.strip_prefix(';')?.trim_start();
    }
}

/// Parses `"text"`, `` `symbol ``, `` `$"text" `` or `::`. Also returns the text after it.
fn parse_literal(text: &str) -> Option<(CallArgument, &str)> {
    if let Some(rest) = text.strip_prefix("::") {
        return Some((CallArgument::Null, rest));
    }
    if let Some(rest) = text.strip_prefix("`$").unwrap_or(text).strip_prefix('"') {
        return parse_quoted(rest);
    }
    let rest = text.strip_prefix('`')?;
    let end = rest.find(|c: char| !(c.is_alphanumeric() || "._:/-".contains(c)));
    let (symbol, rest) = rest.split_at(end.unwrap_or(rest.len()));
    Some((CallArgument::Name(symbol.to_owned()), rest))
}

/// Parses a string after its opening quote. Also returns the text after the closing quote.
fn parse_quoted(text: &str) -> Option<(CallArgument, &str)> {
    let mut content = String::new();
    let mut rest = text.chars();
    loop {
        content.push(match rest.next()? {
            '"' => return Some((CallArgument::Name(content), rest.as_str())),
            '\\' => match rest.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                mark @ ('"' | '\\') => mark,
                _ => return None,
            },
            other => other,
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<ConsoleRequest, String> {
        ConsoleRequest::parse(&Value::text(text))
    }

    fn symbol(text: &str) -> Value {
        Value::Symbol(text.into())
    }

    #[test]
    fn the_ways_to_ask_for_a_table() {
        let sessions = Ok(ConsoleRequest::Table(StatusTable::Sessions));
        for text in [
            "sessions",
            " sessions ; ",
            "sessions[]",
            "sessions [ ];;",
            "sessions[::]",
        ] {
            assert_eq!(parse(text), sessions, "{text}");
        }
        for value in [
            symbol("sessions"),
            Value::Symbols(vec!["sessions".into()]),
            Value::List(vec![symbol("sessions"), Value::NULL]),
            Value::List(vec![Value::text("sessions"), Value::NULL]),
            Value::List(vec![Value::text("sessions")]),
        ] {
            assert_eq!(ConsoleRequest::parse(&value), sessions, "{value:?}");
        }
    }

    #[test]
    fn the_ways_to_call_a_function() {
        let nodes = Ok(ConsoleRequest::Nodes {
            cluster: "hdb-cluster".into(),
        });
        for text in [
            r#".aws.list_kx_cluster_nodes["hdb-cluster"]"#,
            r#" .aws.list_kx_cluster_nodes [ "hdb-cluster" ] ;"#,
            r#".aws.list_kx_cluster_nodes "hdb-cluster""#,
            r#".aws.list_kx_cluster_nodes[`$"hdb-cluster"]"#,
            ".aws.list_kx_cluster_nodes`hdb-cluster",
        ] {
            assert_eq!(parse(text), nodes, "{text}");
        }
        let name = ".aws.list_kx_cluster_nodes";
        for value in [
            Value::Symbols(vec![name.into(), "hdb-cluster".into()]),
            Value::List(vec![symbol(name), Value::text("hdb-cluster")]),
            Value::List(vec![Value::text(name), symbol("hdb-cluster")]),
        ] {
            assert_eq!(ConsoleRequest::parse(&value), nodes, "{value:?}");
        }
        assert_eq!(
            parse(".aws.list_kx_clusters[]"),
            Ok(ConsoleRequest::Clusters)
        );
        assert_eq!(
            parse(".aws.get_kx_connection_string `rdb;"),
            Ok(ConsoleRequest::ConnectionString {
                cluster: "rdb".into()
            })
        );
        assert_eq!(
            parse(r#".aws.get_kx_node_connection_string["hdb"; `n1]"#),
            Ok(ConsoleRequest::NodeConnectionString {
                cluster: "hdb".into(),
                node: "n1".into()
            })
        );
    }

    #[test]
    fn nothing_is_no_fault() {
        for value in [Value::NULL, Value::text(""), Value::text(" \n")] {
            assert_eq!(ConsoleRequest::parse(&value), Ok(ConsoleRequest::Nothing));
        }
    }

    #[test]
    fn whatever_else_is_answered_with_what_there_is() {
        for text in [
            "select from sessions",
            "1+1",
            "sessions+1",
            "`sessions",
            "Sessions",
            "endpoints[",
            "sessions[]]",
            ".aws.list_kx_cluster_nodes[x]",
            ".aws.list_kx_cluster_nodes[\"x\\q\"]",
            "system \"ls\"",
            ";",
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(REQUESTS), "{text}: {error}");
        }
        for value in [
            Value::Long(1),
            Value::List(vec![]),
            Value::Symbols(vec![]),
            Value::Lambda {
                context: String::new(),
                text: "{sessions}".into(),
            },
            Value::List(vec![symbol("endpoints"), Value::Long(1)]),
        ] {
            assert!(
                ConsoleRequest::parse(&value)
                    .unwrap_err()
                    .contains(REQUESTS)
            );
        }
    }

    #[test]
    fn arguments_that_do_not_fit_are_told_by_the_function() {
        for (text, expected) in [
            ("sessions[`a]", "sessions takes no argument"),
            (".aws.list_kx_clusters[`a]", "takes no argument"),
            (".aws.list_kx_cluster_nodes", "takes a cluster's name"),
            (".aws.list_kx_cluster_nodes[]", "takes a cluster's name"),
            (
                ".aws.list_kx_cluster_nodes[`a;`b]",
                "takes a cluster's name",
            ),
            (
                ".aws.get_kx_connection_string[::]",
                "takes a cluster's name",
            ),
            (
                ".aws.get_kx_connection_string[::;`b]",
                "takes a cluster's name",
            ),
            (".aws.get_kx_node_connection_string[`a]", "and a node's id"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn what_can_be_no_name_goes_no_further() {
        for name in [
            r#""""#,
            r#""a;b]\"c""#,
            r#""a b""#,
            &format!("\"{}\"", "x".repeat(64)),
        ] {
            let error = parse(&format!(".aws.list_kx_cluster_nodes[{name}]")).unwrap_err();
            assert!(error.contains("no name of a cluster"), "{name}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn near_misses_are_read_or_refused(
            text in "(sessions|\\.aws\\.list_kx_cluster_nodes)[\\[\\]\"`$;:\\\\ a-z]{0,12}"
        ) {
            let _ = parse(&text);
        }
    }
}
