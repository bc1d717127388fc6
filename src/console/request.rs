//! What a console can be asked, read from what a q client sends.
//!
//! A request is a name with its arguments: as text (`.aws.list_kx_cluster_nodes["hdb-cluster"]`), as
//! a symbol, or as a list of the name and the arguments, which is what `(h)(name;argument)` sends.
//! Nothing is evaluated.

use q_ipc::value::Value;

/// What there is to be asked, for people to read.
pub(super) const ASKABLE: &str = "endpoints, places, sessions, credentials, errors, \
    .aws.list_kx_clusters[], .aws.list_kx_cluster_nodes[cluster], \
    .aws.get_kx_connection_string[cluster] and .aws.get_kx_node_connection_string[cluster;node]";

/// Of a cluster; nodes' ids are shorter.
const LONGEST_NAME: usize = 63;

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// The empty text, or `::`.
    Nothing,
    /// One of hopend's own tables.
    Show(Shown),
    /// `.aws.list_kx_clusters[]`.
    Clusters,
    /// `.aws.list_kx_cluster_nodes[cluster]`.
    Nodes(String),
    /// `.aws.get_kx_connection_string[cluster]`.
    ConnectionString(String),
    /// `.aws.get_kx_node_connection_string[cluster;node]`.
    NodeConnectionString(String, String),
}

/// hopend's own tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Endpoints,
    Places,
    Sessions,
    Credentials,
    Errors,
}

/// A name, and arguments of which `None` is `::`.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    name: String,
    arguments: Vec<Option<String>>,
}

impl Request {
    /// Reads a request.
    ///
    /// # Errors
    /// What can be asked, where it is none of it.
    pub(super) fn of(value: &Value) -> Result<Self, String> {
        match value {
            &Value::NULL => return Ok(Self::Nothing),
            Value::Chars(text) if text.trim_ascii().is_empty() => return Ok(Self::Nothing),
            _ => {}
        }
        let call = Call::of(value).ok_or_else(unknown)?;
        let name = call.name.as_str();
        let shown = match name {
            "endpoints" => Some(Shown::Endpoints),
            "places" => Some(Shown::Places),
            "sessions" => Some(Shown::Sessions),
            "credentials" => Some(Shown::Credentials),
            "errors" => Some(Shown::Errors),
            _ => None,
        };
        let named: Option<Vec<String>> = match call.arguments.as_slice() {
            [None] => Some(Vec::new()),
            arguments => arguments.iter().cloned().collect(),
        };
        let arguments = named.unwrap_or_default();
        match (name, shown, arguments.as_slice()) {
            (_, Some(shown), []) => Ok(Self::Show(shown)),
            (".aws.list_kx_clusters", _, []) => Ok(Self::Clusters),
            (".aws.list_kx_cluster_nodes", _, [cluster]) => Ok(Self::Nodes(checked(cluster)?)),
            (".aws.get_kx_connection_string", _, [cluster]) => {
                Ok(Self::ConnectionString(checked(cluster)?))
            }
            (".aws.get_kx_node_connection_string", _, [cluster, node]) => Ok(
                Self::NodeConnectionString(checked(cluster)?, checked(node)?),
            ),
            (name, Some(_), _) | (name @ ".aws.list_kx_clusters", ..) => {
                Err(format!("{name} takes no argument. Fix: ask for {name}[]."))
            }
            (name @ (".aws.list_kx_cluster_nodes" | ".aws.get_kx_connection_string"), ..) => {
                Err(format!(
                    "{name} takes a cluster's name. Fix: name one, as in {name}[\"hdb-cluster\"]."
                ))
            }
            (name @ ".aws.get_kx_node_connection_string", ..) => Err(format!(
                "{name} takes a cluster's name and a node's id, as .aws.list_kx_cluster_nodes \
                 tells it"
            )),
            _ => Err(unknown()),
        }
    }
}

fn unknown() -> String {
    format!("a console evaluates no q. Fix: ask it for {ASKABLE}.")
}

/// A name that a cluster or a node can have.
fn checked(name: &str) -> Result<String, String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(fine) {
        return Ok(name.to_owned());
    }
    Err(format!(
        "that is no name of a cluster or node: they have up to {LONGEST_NAME} letters, digits, \
         hyphens and underscores. Fix: list the clusters with .aws.list_kx_clusters[]."
    ))
}

impl Call {
    fn of(value: &Value) -> Option<Self> {
        let (name, arguments) = match value {
            Value::Chars(text) => return Self::of_text(&String::from_utf8_lossy(text)),
            Value::Symbol(name) => (name.clone(), Vec::new()),
            Value::Symbols(names) => {
                let (name, arguments) = names.split_first()?;
                (name.clone(), arguments.iter().cloned().map(Some).collect())
            }
            Value::List(items) => {
                let (name, arguments) = items.split_first()?;
                let arguments: Option<_> = arguments.iter().map(argument).collect();
                (name.as_text()?, arguments?)
            }
            _ => return None,
        };
        let name = name.trim().to_owned();
        Some(Self { name, arguments })
    }

    /// `name`, `name[…]`, `name "…"` or ``name`…``, with semicolons behind it.
    fn of_text(text: &str) -> Option<Self> {
        let text = text.trim_end_matches(|c: char| c == ';' || c.is_whitespace());
        let text = text.trim_start();
        let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_'));
        let (name, rest) = text.split_at(end.unwrap_or(text.len()));
        let rest = rest.trim_start();
        let arguments = match rest.strip_prefix('[') {
            Some(inside) => bracketed(inside)?,
            None if rest.is_empty() => Vec::new(),
            None => match literal(rest)? {
                (argument, "") => vec![argument],
                _ => return None,
            },
        };
        Some(Self {
            name: name.to_owned(),
            arguments,
        })
    }
}

fn argument(value: &Value) -> Option<Option<String>> {
    match value {
        &Value::NULL => Some(None),
        other => other.as_text().map(Some),
    }
}

/// What stands between brackets, from behind the first one on.
fn bracketed(inside: &str) -> Option<Vec<Option<String>>> {
    let mut rest = inside.trim_start();
    if rest == "]" {
        return Some(Vec::new());
    }
    let mut arguments = Vec::new();
    loop {
        let (argument, behind) = literal(rest)?;
        arguments.push(argument);
        let behind = behind.trim_start();
        if behind == "]" {
            return Some(arguments);
        }
        rest = behind.strip_prefix(';')?.trim_start();
    }
}

/// `"text"`, `` `symbol ``, `` `$"text" `` or `::`, and what stands behind it.
fn literal(text: &str) -> Option<(Option<String>, &str)> {
    if let Some(rest) = text.strip_prefix("::") {
        return Some((None, rest));
    }
    if let Some(rest) = text.strip_prefix("`$").unwrap_or(text).strip_prefix('"') {
        return quoted(rest);
    }
    let rest = text.strip_prefix('`')?;
    let end = rest.find(|c: char| !(c.is_alphanumeric() || "._:/-".contains(c)));
    let (symbol, rest) = rest.split_at(end.unwrap_or(rest.len()));
    Some((Some(symbol.to_owned()), rest))
}

fn quoted(text: &str) -> Option<(Option<String>, &str)> {
    let mut content = String::new();
    let mut rest = text.chars();
    loop {
        content.push(match rest.next()? {
            '"' => return Some((Some(content), rest.as_str())),
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

    fn of(text: &str) -> Result<Request, String> {
        Request::of(&Value::text(text))
    }

    fn symbol(text: &str) -> Value {
        Value::Symbol(text.into())
    }

    #[test]
    fn the_ways_to_ask_for_a_table() {
        let sessions = Ok(Request::Show(Shown::Sessions));
        for text in [
            "sessions",
            " sessions ; ",
            "sessions[]",
            "sessions [ ];;",
            "sessions[::]",
        ] {
            assert_eq!(of(text), sessions, "{text}");
        }
        for value in [
            symbol("sessions"),
            Value::Symbols(vec!["sessions".into()]),
            Value::List(vec![symbol("sessions"), Value::NULL]),
            Value::List(vec![Value::text("sessions"), Value::NULL]),
            Value::List(vec![Value::text("sessions")]),
        ] {
            assert_eq!(Request::of(&value), sessions, "{value:?}");
        }
    }

    #[test]
    fn the_ways_to_call_a_function() {
        let nodes = Ok(Request::Nodes("hdb-cluster".into()));
        for text in [
            r#".aws.list_kx_cluster_nodes["hdb-cluster"]"#,
            r#" .aws.list_kx_cluster_nodes [ "hdb-cluster" ] ;"#,
            r#".aws.list_kx_cluster_nodes "hdb-cluster""#,
            r#".aws.list_kx_cluster_nodes[`$"hdb-cluster"]"#,
            ".aws.list_kx_cluster_nodes`hdb-cluster",
        ] {
            assert_eq!(of(text), nodes, "{text}");
        }
        let name = ".aws.list_kx_cluster_nodes";
        for value in [
            Value::Symbols(vec![name.into(), "hdb-cluster".into()]),
            Value::List(vec![symbol(name), Value::text("hdb-cluster")]),
            Value::List(vec![Value::text(name), symbol("hdb-cluster")]),
        ] {
            assert_eq!(Request::of(&value), nodes, "{value:?}");
        }
        assert_eq!(of(".aws.list_kx_clusters[]"), Ok(Request::Clusters));
        assert_eq!(
            of(".aws.get_kx_connection_string `rdb;"),
            Ok(Request::ConnectionString("rdb".into()))
        );
        assert_eq!(
            of(r#".aws.get_kx_node_connection_string["hdb"; `n1]"#),
            Ok(Request::NodeConnectionString("hdb".into(), "n1".into()))
        );
    }

    #[test]
    fn nothing_is_no_fault() {
        for value in [Value::NULL, Value::text(""), Value::text(" \n")] {
            assert_eq!(Request::of(&value), Ok(Request::Nothing));
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
            let told = of(text).unwrap_err();
            assert!(told.contains(ASKABLE), "{text}: {told}");
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
            assert!(Request::of(&value).unwrap_err().contains(ASKABLE));
        }
    }

    #[test]
    fn arguments_that_do_not_fit_are_told_by_the_function() {
        for (text, told) in [
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
            let error = of(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
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
            let error = of(&format!(".aws.list_kx_cluster_nodes[{name}]")).unwrap_err();
            assert!(error.contains("no name of a cluster"), "{name}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            let _ = of(&text);
        }

        #[test]
        fn near_misses_are_read_or_refused(
            text in "(sessions|\\.aws\\.list_kx_cluster_nodes)[\\[\\]\"`$;:\\\\ a-z]{0,12}"
        ) {
            let _ = of(&text);
        }
    }
}
