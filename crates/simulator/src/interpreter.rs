//! Evaluates the messages of one connection. It knows the expressions in [`OFFERED`] and is not q.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::connection::Connection;
use super::discovery;
use super::expression::{Expression, Lambda, parse};
use super::frames::{self, QueuedMessage};
use super::lazy_value::{self, Function, LazyValue};
use super::state::Simulation;
use q_ipc::frame::MessageType;
use q_ipc::message::error_response;
use q_ipc::time;
use q_ipc::value::{Table, Value};

/// The expressions that a node evaluates. The error for any other expression contains this list.
pub const OFFERED: &str = "1+1 7-2 2*3 6%4 1 2 3 \"text\" `symbol (1;`a) ([]a:1 2) a:1 til n n#x \
    x,y count sum avg max min first last neg type string {..} f[x] select from trades 'error \
    .z.u .z.w .z.h .z.p .z.K system\"sleep n\" nodeId[] clusterName[] pings[] seen[] \
    callback[text] ask[text] (neg .z.w)x .z.w x .aws.list_kx_clusters[] \
    .aws.list_kx_cluster_nodes[cluster] .aws.get_kx_connection_string[cluster] \
    .aws.get_kx_node_connection_string[cluster;node]";

/// The handle of the client on the node, `.z.w`.
const HANDLE: i32 = 6;

/// Levels of nested function calls before the error `stack`.
const MAX_DEPTH: usize = 32;

/// The functions that need the connection.
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

type Variables = HashMap<String, LazyValue>;

/// The interpreter of one connection. Its variables live as long as the connection.
pub(crate) struct Interpreter<W> {
    simulation: Arc<Simulation>,
    connection: Arc<Connection>,
    capability: u8,
    writer: W,
    frames: mpsc::UnboundedReceiver<QueuedMessage>,
    /// Async messages that arrived while the node waited for a response.
    waiting: VecDeque<QueuedMessage>,
    variables: Variables,
    /// Levels of nested function calls now.
    depth: usize,
}

/// The reason why an evaluation gave no value.
enum EvaluationError {
    /// The error that q would signal.
    Signal(String),
    /// The connection failed.
    Lost(io::Error),
}

impl From<String> for EvaluationError {
    fn from(text: String) -> Self {
        Self::Signal(text)
    }
}

impl From<&str> for EvaluationError {
    fn from(text: &str) -> Self {
        Self::Signal(text.to_owned())
    }
}

impl From<io::Error> for EvaluationError {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

impl Interpreter<()> {
    /// Evaluates messages and answers them until the client closes the connection.
    ///
    /// It reads messages while it evaluates others, and evaluates one at a time. `capability` is the
    /// common capability. `early` contains bytes that the client sent before the answer to its login.
    ///
    /// # Errors
    /// The connection fails, or the client sends bytes that are not messages.
    pub(crate) async fn run<S>(
        simulation: &Arc<Simulation>,
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
        let node = Interpreter {
            simulation: simulation.clone(),
            connection: connection.clone(),
            capability,
            writer,
            frames,
            waiting: VecDeque::new(),
            variables: HashMap::new(),
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

impl<W: AsyncWrite + Unpin + Send> Interpreter<W> {
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

    fn message(&mut self, frame: QueuedMessage) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async move {
            let message_type = frame.header.message_type;
            self.connection.count(message_type, frame.is_ping());
            self.simulation.notify();
            if message_type == MessageType::Response {
                return Ok(());
            }
            let result = match frame.value() {
                Ok(value) => self.evaluate_message(&value).await,
                Err(why) => Err(EvaluationError::Signal(why)),
            };
            drop(frame);
            let result = match result {
                Err(EvaluationError::Lost(error)) => return Err(error),
                Err(EvaluationError::Signal(text)) => Err(text),
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

    async fn evaluate_message(&mut self, value: &Arc<Value>) -> Result<LazyValue, EvaluationError> {
        match &**value {
            Value::Chars(_) | Value::Char(_) => {
                let text = value.as_text().unwrap_or_default();
                self.text(&text).await
            }
            Value::Symbol(name) => self.name(name, &Variables::new()),
            Value::List(items) if !items.is_empty() => self.functional(items).await,
            _ => Ok(LazyValue::Value(value.clone())),
        }
    }

    /// Applies the first item of a list, a function or its name, to the other items.
    async fn functional(&mut self, items: &[Value]) -> Result<LazyValue, EvaluationError> {
        let [function, arguments @ ..] = items else {
            return Err("rank".into());
        };
        let function = match function {
            Value::Symbol(name) => self.name(name, &Variables::new())?,
            Value::Chars(_) | Value::Char(_) => {
                let text = function.as_text().unwrap_or_default();
                self.text(&text).await?
            }
            Value::Lambda { text, .. } => self.text(text).await?,
            _ => return Err("type: the first item of the list is no function".into()),
        };
        let arguments = arguments.iter().cloned().map(LazyValue::from).collect();
        self.apply(&function, arguments).await
    }

    async fn text(&mut self, text: &str) -> Result<LazyValue, EvaluationError> {
        let expression = parse(text).ok_or_else(|| unknown(text))?;
        self.evaluate(&expression, &Variables::new()).await
    }

    fn evaluate<'a>(
        &'a mut self,
        expression: &'a Expression,
        locals: &'a Variables,
    ) -> BoxFuture<'a, Result<LazyValue, EvaluationError>> {
        Box::pin(async move {
            match expression {
                Expression::Constant(value) => Ok(value.clone().into()),
                Expression::Name(name) => self.name(name, locals),
                Expression::Assign(name, value) => {
                    let data = self.evaluate(value, locals).await?;
                    self.variables.insert(name.clone(), data);
                    Ok(LazyValue::null())
                }
                Expression::Dyad(mark, left, right) => {
                    let right = self.evaluate(right, locals).await?;
                    let left = self.evaluate(left, locals).await?;
                    Ok(lazy_value::dyad(*mark, &left, &right)?)
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
                    Err(EvaluationError::Signal(text.as_text().ok_or("stype")?))
                }
                Expression::Lambda(lambda) => {
                    let function = Function::Lambda(lambda.clone());
                    Ok(LazyValue::Function(Arc::new(function)))
                }
                Expression::List(items) => {
                    let items = self.values(items.iter(), locals).await?;
                    Ok(lazy_value::list(items).into())
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
                    let mut last = LazyValue::null();
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
        locals: &Variables,
    ) -> Result<Vec<Value>, EvaluationError> {
        let mut values = VecDeque::new();
        for item in items.rev() {
            let data = self.evaluate(item, locals).await?;
            values.push_front(Arc::unwrap_or_clone(data.value()?));
        }
        Ok(values.into())
    }

    fn name(&self, name: &str, locals: &Variables) -> Result<LazyValue, EvaluationError> {
        if let Some(data) = locals.get(name).or_else(|| self.variables.get(name)) {
            return Ok(data.clone());
        }
        if lazy_value::PURE.contains(&name) || BOUND.contains(&name) {
            return Ok(LazyValue::named(name));
        }
        Ok(match name {
            ".z.u" => Value::Symbol(self.connection.user().to_owned()),
            ".z.w" => Value::Int(HANDLE),
            ".z.h" => Value::Symbol(self.connection.node().to_owned()),
            ".z.p" => Value::Timestamp(time::timestamp(self.simulation.now())),
            ".z.K" => Value::Float(4.1),
            "trades" => trades(),
            _ => return Err(unknown(name)),
        }
        .into())
    }

    async fn apply(
        &mut self,
        function: &LazyValue,
        arguments: Vec<LazyValue>,
    ) -> Result<LazyValue, EvaluationError> {
        let function = match function {
            LazyValue::Function(function) => function.clone(),
            LazyValue::Value(value) => match **value {
                Value::Int(handle) => Arc::new(Function::Handle(handle)),
                _ => return Err("type: that is no function".into()),
            },
            LazyValue::Til(_) | LazyValue::Repeat { .. } => {
                return Err("type: that is no function".into());
            }
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

    async fn lambda(
        &mut self,
        lambda: &Lambda,
        arguments: Vec<LazyValue>,
    ) -> Result<LazyValue, EvaluationError> {
        if arguments.len() > lambda.parameters.len().max(1) {
            return Err("rank".into());
        }
        let locals = lambda.parameters.iter().cloned().zip(arguments).collect();
        self.evaluate(&lambda.body, &locals).await
    }

    /// `.z.w x` and `(neg .z.w) x`: sends a message to the client.
    async fn handle(
        &mut self,
        handle: i32,
        arguments: &[LazyValue],
    ) -> Result<LazyValue, EvaluationError> {
        let [message] = arguments else {
            return Err("rank".into());
        };
        match handle {
            HANDLE => self.ask(message).await,
            handle if handle == -HANDLE => {
                self.send(MessageType::Async, message).await?;
                Ok(LazyValue::null())
            }
            _ => Err("Cannot write to handle. OS reports: Bad file descriptor".into()),
        }
    }

    async fn named(
        &mut self,
        name: &str,
        arguments: &[LazyValue],
    ) -> Result<LazyValue, EvaluationError> {
        let [first, rest @ ..] = arguments else {
            return Err("rank".into());
        };
        if lazy_value::PURE.contains(&name) {
            return match rest {
                [] => Ok(lazy_value::apply(name, first)?),
                _ => Err("rank".into()),
            };
        }
        let text = |data: &LazyValue| data.value().ok().and_then(|value| value.as_text());
        let need = || text(first).ok_or(EvaluationError::Signal("type".into()));
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
            ".aws.list_kx_clusters" => discovery::clusters(&self.simulation),
            ".aws.list_kx_cluster_nodes" => discovery::nodes(&self.simulation, &need()?)?,
            ".aws.get_kx_connection_string" => discovery::connection_string(
                &self.simulation,
                self.connection.user(),
                &need()?,
                None,
            )?,
            ".aws.get_kx_node_connection_string" => {
                let node = rest.first().and_then(text).ok_or("rank")?;
                let user = self.connection.user();
                discovery::connection_string(&self.simulation, user, &need()?, Some(&node))?
            }
            _ => return Err(unknown(name)),
        }
        .into())
    }

    async fn system(&mut self, command: &str) -> Result<LazyValue, EvaluationError> {
        let seconds = command
            .strip_prefix("sleep ")
            .and_then(|seconds| seconds.trim().parse().ok())
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .ok_or("the simulator offers system\"sleep n\" only")?;
        tokio::time::sleep(seconds).await;
        Ok(Value::List(Vec::new()).into())
    }

    /// Sends a sync message to the client and waits for the response. Meanwhile it answers the client's
    /// own sync messages.
    async fn ask(&mut self, message: &LazyValue) -> Result<LazyValue, EvaluationError> {
        self.send(MessageType::Sync, message).await?;
        loop {
            let Some(frame) = self.frames.recv().await else {
                return Err(EvaluationError::Lost(io::ErrorKind::UnexpectedEof.into()));
            };
            match frame.header.message_type {
                MessageType::Response => {
                    self.connection.count(MessageType::Response, false);
                    return match &*frame.value()? {
                        Value::Error(text) => Err(EvaluationError::Signal(text.clone())),
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

    async fn send(&mut self, message_type: MessageType, data: &LazyValue) -> io::Result<()> {
        self.connection.set_inside_frame(true);
        let options = &self.simulation.options;
        let form = frames::MessageFormat {
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

fn unknown(text: &str) -> EvaluationError {
    let text: String = text.chars().take(60).collect();
    EvaluationError::Signal(format!(
        "nyi: {text}: this is a simulated node, not q; it knows {OFFERED}"
    ))
}

/// The table `trades`, with five rows.
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
