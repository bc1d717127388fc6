//! A q node: a test double that evaluates a short list of expressions, [`OFFERED`]. It is no q.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::connection::Connection;
use super::data::{self, Data, Function};
use super::discovery;
use super::expression::{Expression, Lambda, parse};
use super::frames::{self, Frame};
use super::state::Shared;
use q_ipc::frame::MessageType;
use q_ipc::message::error_response;
use q_ipc::time;
use q_ipc::value::{Table, Value};

/// What a node knows; an unknown expression is answered with this list.
pub const OFFERED: &str = "1+1 7-2 2*3 6%4 1 2 3 \"text\" `symbol (1;`a) ([]a:1 2) a:1 til n n#x \
    x,y count sum avg max min first last neg type string {..} f[x] select from trades 'error \
    .z.u .z.w .z.h .z.p .z.K system\"sleep n\" nodeId[] clusterName[] pings[] seen[] \
    callback[text] ask[text] (neg .z.w)x .z.w x .aws.list_kx_clusters[] \
    .aws.list_kx_cluster_nodes[cluster] .aws.get_kx_connection_string[cluster] \
    .aws.get_kx_node_connection_string[cluster;node]";

/// What a node calls the handle of its client.
const HANDLE: i32 = 6;

/// Calls in calls that are followed before giving up.
const MAX_DEPTH: usize = 32;

/// Functions that need the connection.
const BOUND: [&str; 11] = [
    "system",
    "nodeId",
    "clusterName",
    "pings",
    "seen",
    "callback",
    "ask",
    ".aws.list_kx_clusters",
    ".aws.list_kx_cluster_nodes",
    ".aws.get_kx_connection_string",
    ".aws.get_kx_node_connection_string",
];

type Names = HashMap<String, Data>;

/// One connection's interpreter.
pub(super) struct Node<W> {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    capability: u8,
    writer: W,
    frames: mpsc::UnboundedReceiver<Frame>,
    waiting: VecDeque<Frame>,
    names: Names,
    depth: usize,
}

/// Why an evaluation gave no value.
enum Failure {
    /// What q would signal.
    Signal(String),
    /// The connection is of no use any more.
    Lost(io::Error),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Signal(text)
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        Self::Signal(text.to_owned())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

impl Node<()> {
    /// Reads and answers until the client closes. Messages are read while others are evaluated,
    /// and evaluated one after the other.
    pub(super) async fn run<S>(
        shared: &Arc<Shared>,
        stream: &mut S,
        connection: &Arc<Connection>,
        capability: u8,
        early: Vec<u8>,
    ) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let (reader, writer) = tokio::io::split(stream);
        let (sender, frames) = mpsc::unbounded_channel();
        let node = Node {
            shared: shared.clone(),
            connection: connection.clone(),
            capability,
            writer,
            frames,
            waiting: VecDeque::new(),
            names: HashMap::new(),
            depth: 0,
        };
        let reader = io::Cursor::new(early).chain(reader);
        let read = frames::read(reader, sender);
        let evaluate = Box::pin(node.serve());
        tokio::pin!(read);
        let mut evaluate = evaluate;
        tokio::select! {
            result = &mut evaluate => return result,
            result = &mut read => result?,
        }
        evaluate.await
    }
}

impl<W: AsyncWrite + Unpin + Send> Node<W> {
    async fn serve(mut self) -> io::Result<()> {
        loop {
            let frame = match self.waiting.pop_front() {
                Some(frame) => frame,
                None => match self.frames.recv().await {
                    Some(frame) => frame,
                    None => return Ok(()),
                },
            };
            self.message(frame).await?;
        }
    }

    fn message(&mut self, frame: Frame) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            let message_type = frame.header.message_type;
            self.connection.count(message_type, frame.is_ping());
            self.shared.happened();
            if message_type == MessageType::Response {
                return Ok(());
            }
            let result = match frame.value() {
                Ok(value) => self.evaluate_message(&value).await,
                Err(why) => Err(Failure::Signal(why)),
            };
            drop(frame);
            let result = match result {
                Err(Failure::Lost(error)) => return Err(error),
                Err(Failure::Signal(text)) => Err(text),
                Ok(data) => Ok(data),
            };
            if message_type == MessageType::Async {
                return Ok(());
            }
            match result {
                Ok(data) => self.send(MessageType::Response, &data).await,
                Err(text) => self.write(&error_response(&text)).await,
            }
        })
    }

    async fn evaluate_message(&mut self, value: &Arc<Value>) -> Result<Data, Failure> {
        match &**value {
            Value::Chars(_) | Value::Char(_) => {
                let text = value.as_text().unwrap_or_default();
                self.text(&text).await
            }
            Value::Symbol(name) => self.name(name, &Names::new()),
            Value::List(items) if !items.is_empty() => self.functional(items).await,
            _ => Ok(Data::Value(value.clone())),
        }
    }

    /// A list whose first item names or is a function: the rest are its arguments.
    async fn functional(&mut self, items: &[Value]) -> Result<Data, Failure> {
        let [function, arguments @ ..] = items else {
            return Err("rank".into());
        };
        let function = match function {
            Value::Symbol(name) => self.name(name, &Names::new())?,
            Value::Chars(_) | Value::Char(_) => {
                let text = function.as_text().unwrap_or_default();
                self.text(&text).await?
            }
            Value::Lambda { text, .. } => self.text(text).await?,
            _ => return Err("type: the first item of the list is no function".into()),
        };
        let arguments = arguments.iter().cloned().map(Data::from).collect();
        self.apply(&function, arguments).await
    }

    async fn text(&mut self, text: &str) -> Result<Data, Failure> {
        let expression = parse(text).ok_or_else(|| unknown(text))?;
        self.evaluate(&expression, &Names::new()).await
    }

    fn evaluate<'a>(
        &'a mut self,
        expression: &'a Expression,
        locals: &'a Names,
    ) -> BoxFuture<'a, Result<Data, Failure>> {
        Box::pin(async move {
            match expression {
                Expression::Constant(value) => Ok(value.clone().into()),
                Expression::Name(name) => self.name(name, locals),
                Expression::Assign(name, value) => {
                    let data = self.evaluate(value, locals).await?;
                    self.names.insert(name.clone(), data);
                    Ok(Data::null())
                }
                Expression::Dyad(mark, left, right) => {
                    let right = self.evaluate(right, locals).await?;
                    let left = self.evaluate(left, locals).await?;
                    Ok(data::dyad(*mark, &left, &right)?)
                }
                Expression::Apply(function, arguments) => {
                    let mut values = VecDeque::new();
                    for argument in arguments.iter().rev() {
                        values.push_front(self.evaluate(argument, locals).await?);
                    }
                    let function = self.evaluate(function, locals).await?;
                    self.apply(&function, values.into()).await
                }
                Expression::Signal(text) => {
                    let text = self.evaluate(text, locals).await?.value()?;
                    Err(Failure::Signal(text.as_text().ok_or("stype")?))
                }
                Expression::Lambda(lambda) => {
                    let function = Function::Lambda(lambda.clone());
                    Ok(Data::Function(Arc::new(function)))
                }
                Expression::List(items) => {
                    let items = self.values(items.iter(), locals).await?;
                    Ok(data::list(items).into())
                }
                Expression::Table(columns) => {
                    let items = self
                        .values(columns.iter().map(|(_, items)| items), locals)
                        .await?;
                    let names = columns.iter().map(|(name, _)| name.clone());
                    let columns = names.zip(items).collect();
                    Ok(Value::Table(Table { columns }).into())
                }
                Expression::Sequence(parts) => {
                    let mut last = Data::null();
                    for part in parts {
                        last = self.evaluate(part, locals).await?;
                    }
                    Ok(last)
                }
            }
        })
    }

    async fn values<'a>(
        &mut self,
        items: impl DoubleEndedIterator<Item = &'a Expression> + Send,
        locals: &Names,
    ) -> Result<Vec<Value>, Failure> {
        let mut values = VecDeque::new();
        for item in items.rev() {
            let data = self.evaluate(item, locals).await?;
            values.push_front(Arc::unwrap_or_clone(data.value()?));
        }
        Ok(values.into())
    }

    fn name(&self, name: &str, locals: &Names) -> Result<Data, Failure> {
        if let Some(data) = locals.get(name).or_else(|| self.names.get(name)) {
            return Ok(data.clone());
        }
        if data::PURE.contains(&name) || BOUND.contains(&name) {
            return Ok(Data::named(name));
        }
        Ok(match name {
            ".z.u" => Value::Symbol(self.connection.user().to_owned()),
            ".z.w" => Value::Int(HANDLE),
            ".z.h" => Value::Symbol(self.connection.node().to_owned()),
            ".z.p" => Value::Timestamp(time::timestamp(self.shared.now())),
            ".z.K" => Value::Float(4.1),
            "trades" => trades(),
            _ => return Err(unknown(name)),
        }
        .into())
    }

    async fn apply(&mut self, function: &Data, arguments: Vec<Data>) -> Result<Data, Failure> {
        let function = match function {
            Data::Function(function) => function.clone(),
            Data::Value(value) => match **value {
                Value::Int(handle) => Arc::new(Function::Handle(handle)),
                _ => return Err("type: that is no function".into()),
            },
            Data::Til(_) | Data::Repeat { .. } => return Err("type: that is no function".into()),
        };
        if self.depth >= MAX_DEPTH {
            return Err("stack".into());
        }
        self.depth += 1;
        let result = match &*function {
            Function::Lambda(lambda) => self.lambda(lambda, arguments).await,
            Function::Handle(handle) => self.handle(*handle, &arguments).await,
            Function::Named(name) => self.named(name, &arguments).await,
        };
        self.depth -= 1;
        result
    }

    async fn lambda(&mut self, lambda: &Lambda, arguments: Vec<Data>) -> Result<Data, Failure> {
        if arguments.len() > lambda.parameters.len().max(1) {
            return Err("rank".into());
        }
        let locals = lambda.parameters.iter().cloned().zip(arguments).collect();
        self.evaluate(&lambda.body, &locals).await
    }

    /// `.z.w x` and `(neg .z.w) x`: the node calls its client.
    async fn handle(&mut self, handle: i32, arguments: &[Data]) -> Result<Data, Failure> {
        let [message] = arguments else {
            return Err("rank".into());
        };
        match handle {
            HANDLE => self.ask(message).await,
            handle if handle == -HANDLE => {
                self.send(MessageType::Async, message).await?;
                Ok(Data::null())
            }
            _ => Err("Cannot write to handle. OS reports: Bad file descriptor".into()),
        }
    }

    async fn named(&mut self, name: &str, arguments: &[Data]) -> Result<Data, Failure> {
        let [first, rest @ ..] = arguments else {
            return Err("rank".into());
        };
        if data::PURE.contains(&name) {
            return match rest {
                [] => Ok(data::apply(name, first)?),
                _ => Err("rank".into()),
            };
        }
        let text = |data: &Data| data.value().ok().and_then(|value| value.as_text());
        let need = || text(first).ok_or(Failure::Signal("type".into()));
        Ok(match name {
            "system" => return self.system(&need()?).await,
            "callback" => {
                let message = Value::text(&need()?).into();
                self.send(MessageType::Async, &message).await?;
                Value::NULL
            }
            "ask" => {
                let message = Value::text(&need()?).into();
                return self.ask(&message).await;
            }
            "nodeId" => Value::Symbol(self.connection.node().to_owned()),
            "clusterName" => Value::Symbol(self.connection.cluster().to_owned()),
            "pings" => Value::Long(long(self.connection.record().pings)),
            "seen" => self.seen(),
            ".aws.list_kx_clusters" => discovery::clusters(&self.shared),
            ".aws.list_kx_cluster_nodes" => discovery::nodes(&self.shared, &need()?)?,
            ".aws.get_kx_connection_string" => {
                discovery::connection_string(&self.shared, self.connection.user(), &need()?, None)?
            }
            ".aws.get_kx_node_connection_string" => {
                let node = rest.first().and_then(text).ok_or("rank")?;
                let user = self.connection.user();
                discovery::connection_string(&self.shared, user, &need()?, Some(&node))?
            }
            _ => return Err(unknown(name)),
        }
        .into())
    }

    async fn system(&mut self, command: &str) -> Result<Data, Failure> {
        let seconds = command
            .strip_prefix("sleep ")
            .and_then(|seconds| seconds.trim().parse().ok())
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .ok_or("the simulator offers system\"sleep n\" only")?;
        tokio::time::sleep(seconds).await;
        Ok(Value::List(Vec::new()).into())
    }

    /// Calls the client and waits for its answer, serving the calls that it makes meanwhile.
    async fn ask(&mut self, message: &Data) -> Result<Data, Failure> {
        self.send(MessageType::Sync, message).await?;
        loop {
            let Some(frame) = self.frames.recv().await else {
                return Err(Failure::Lost(io::ErrorKind::UnexpectedEof.into()));
            };
            match frame.header.message_type {
                MessageType::Response => {
                    self.connection.count(MessageType::Response, false);
                    return match &*frame.value()? {
                        Value::Error(text) => Err(Failure::Signal(text.clone())),
                        value => Ok(value.clone().into()),
                    };
                }
                MessageType::Sync => self.message(frame).await?,
                MessageType::Async => self.waiting.push_back(frame),
            }
        }
    }

    fn seen(&self) -> Value {
        let record = self.connection.record();
        let counts = [
            ("pings", record.pings),
            ("async", record.asyncs),
            ("sync", record.syncs),
            ("response", record.responses),
            ("bytesIn", record.bytes_in),
            ("bytesOut", record.bytes_out),
        ];
        Value::Dict(Box::new((
            Value::Symbols(counts.iter().map(|(name, _)| (*name).into()).collect()),
            Value::Longs(counts.iter().map(|(_, count)| long(*count)).collect()),
        )))
    }

    async fn send(&mut self, message_type: MessageType, data: &Data) -> io::Result<()> {
        self.connection.set_inside_frame(true);
        let options = &self.shared.options;
        let form = frames::Form {
            message_type,
            capability: self.capability,
            compress: options.compress,
            little_endian: !options.big_endian,
        };
        frames::write(&mut self.writer, form, data).await?;
        self.connection.set_inside_frame(false);
        Ok(())
    }

    async fn write(&mut self, message: &[u8]) -> io::Result<()> {
        self.connection.set_inside_frame(true);
        self.writer.write_all(message).await?;
        self.writer.flush().await?;
        self.connection.set_inside_frame(false);
        Ok(())
    }
}

fn unknown(text: &str) -> Failure {
    let text: String = text.chars().take(60).collect();
    Failure::Signal(format!(
        "nyi: {text}: this is a simulated node, not q; it knows {OFFERED}"
    ))
}

/// A fixed table of five rows.
fn trades() -> Value {
    let minute = 60_000_000_000;
    let start = 776_000_000_000_000_000;
    let symbols = ["AAPL", "MSFT", "AAPL", "GOOG", "MSFT"];
    Value::Table(
        Table::new()
            .with(
                "time",
                Value::Timestamps((0..5).map(|n| start + n * minute).collect()),
            )
            .with("sym", Value::Symbols(symbols.map(str::to_owned).to_vec()))
            .with(
                "price",
                Value::Floats(vec![189.5, 411.25, 189.75, 141.0, 411.5]),
            )
            .with("size", Value::Longs(vec![100, 200, 50, 75, 300])),
    )
}

fn long(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
