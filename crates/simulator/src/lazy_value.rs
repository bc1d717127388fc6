//! The values of a simulated node and the functions on them. Long vectors are described, not held.

use std::sync::Arc;

use super::expression::{Lambda, vector};
use q_ipc::value::Value;

/// Length of the longest vector that is held in memory, in bytes. Longer ones are described, and
/// generated while they are sent.
const HELD: u64 = 8 << 20;

/// A value, the description of a vector that is too long to hold, or a function.
#[derive(Debug, Clone)]
pub(crate) enum LazyValue {
    Value(Arc<Value>),
    /// The longs of `til count`.
    Til(u64),
    /// The vector `count#item`: its type number and the little-endian bytes of one item.
    Repeat {
        kind: u8,
        item: Arc<[u8]>,
        count: u64,
    },
    Function(Arc<Function>),
}

/// A value that can be applied to arguments.
#[derive(Debug, Clone)]
pub(crate) enum Function {
    Named(String),
    Lambda(Lambda),
    /// A handle; a negative one sends async messages.
    Handle(i32),
}

/// The functions of one argument that need no connection.
pub(crate) const PURE: [&str; 13] = [
    "til", "count", "sum", "avg", "max", "min", "first", "last", "neg", "type", "string", "from",
    "select",
];

impl From<Value> for LazyValue {
    fn from(value: Value) -> Self {
        Self::Value(Arc::new(value))
    }
}

impl LazyValue {
    pub(crate) fn null() -> Self {
        Value::NULL.into()
    }

    pub(crate) fn named(name: &str) -> Self {
        Self::Function(Arc::new(Function::Named(name.to_owned())))
    }

    /// The value.
    ///
    /// # Errors
    /// The vector is described, not held.
    pub(crate) fn value(&self) -> Result<Arc<Value>, String> {
        match self {
            Self::Value(value) => Ok(value.clone()),
            Self::Til(_) | Self::Repeat { .. } => {
                Err("wsfull: the simulator can count and send this, and no more".into())
            }
            Self::Function(function) => Ok(Arc::new(match &**function {
                Function::Lambda(lambda) => Value::Lambda {
                    context: String::new(),
                    text: lambda.text.clone(),
                },
                Function::Named(name) => Value::Symbol(name.clone()),
                Function::Handle(handle) => Value::Int(*handle),
            })),
        }
    }

    fn count(&self) -> u64 {
        match self {
            Self::Value(value) => value.count() as u64,
            Self::Til(count) | Self::Repeat { count, .. } => *count,
            Self::Function(_) => 1,
        }
    }
}

/// Applies one of [`PURE`].
///
/// # Errors
/// The text of a q error.
pub(crate) fn apply(name: &str, argument: &LazyValue) -> Result<LazyValue, String> {
    match (name, argument) {
        ("count", any) => return Ok(long(any.count()).into()),
        ("type", any) => return Ok(Value::Short(kind(any)).into()),
        ("sum", &LazyValue::Til(count)) => {
            let sum = u128::from(count) * u128::from(count.saturating_sub(1)) / 2;
            return Ok(Value::Long(i64::try_from(sum).unwrap_or(i64::MAX)).into());
        }
        ("last", &LazyValue::Til(count)) => return Ok(long(count.saturating_sub(1)).into()),
        ("first", &LazyValue::Til(_)) => return Ok(Value::Long(0).into()),
        _ => {}
    }
    let value = argument.value()?;
    match name {
        "til" => til(&value),
        "from" => Ok(argument.clone()),
        "select" => match &*value {
            Value::Table(_) => Ok(argument.clone()),
            _ => Err("type".into()),
        },
        "string" => Ok(match value.as_text() {
            Some(text) => Value::text(&text),
            None => match Number::of(&value)? {
                Number::Longs(v, _) => Value::text(&v.first().map_or("".into(), i64::to_string)),
                Number::Floats(v, _) => Value::text(&v.first().map_or("".into(), f64::to_string)),
            },
        }
        .into()),
        "neg" => negate(&value),
        _ => reduce(name, &Number::of(&value)?),
    }
}

/// Applies the operator `mark`: one of `+ - * % # ,`.
///
/// # Errors
/// The text of a q error.
pub(crate) fn dyad(mark: char, left: &LazyValue, right: &LazyValue) -> Result<LazyValue, String> {
    if mark == '#' {
        return take(&*left.value()?, right);
    }
    let (left, right) = (left.value()?, right.value()?);
    if mark == ',' {
        return join(&left, &right);
    }
    let (left, right) = (Number::of(&left)?, Number::of(&right)?);
    match (left, right) {
        (Number::Longs(a, one), Number::Longs(b, other)) if mark != '%' => {
            let f = match mark {
                '+' => i64::wrapping_add,
                '-' => i64::wrapping_sub,
                _ => i64::wrapping_mul,
            };
            let items = pairs(&a, &b, (one, other), f)?;
            Ok(Number::Longs(items, one && other).into_value().into())
        }
        (left, right) => {
            let f: fn(f64, f64) -> f64 = match mark {
                '+' => |a, b| a + b,
                '-' => |a, b| a - b,
                '*' => |a, b| a * b,
                _ => |a, b| a / b,
            };
            let atoms = (left.is_atom(), right.is_atom());
            let items = pairs(&left.floats(), &right.floats(), atoms, f)?;
            Ok(Number::Floats(items, atoms.0 && atoms.1)
                .into_value()
                .into())
        }
    }
}

/// A vector if the items have a common type, and a list otherwise.
pub(crate) fn list(items: Vec<Value>) -> Value {
    match vector(&items) {
        Some(vector) if !items.is_empty() => vector,
        _ => Value::List(items),
    }
}

fn til(value: &Value) -> Result<LazyValue, String> {
    let Value::Long(count) = *value else {
        return Err("type".into());
    };
    let end = count;
    let count = u64::try_from(count).map_err(|_| "domain")?;
    if count * 8 > HELD {
        return Ok(LazyValue::Til(count));
    }
    Ok(Value::Longs((0..end).collect()).into())
}

fn take(count: &Value, items: &LazyValue) -> Result<LazyValue, String> {
    let Value::Long(count) = *count else {
        return Err("type".into());
    };
    let count = u64::try_from(count).map_err(|_| "domain")?;
    let items = items.value()?;
    let (kind, item): (u8, Vec<u8>) = match &*items {
        Value::Bool(v) => (1, vec![u8::from(*v)]),
        Value::Byte(v) => (4, vec![*v]),
        Value::Short(v) => (5, v.to_le_bytes().to_vec()),
        Value::Int(v) => (6, v.to_le_bytes().to_vec()),
        Value::Long(v) => (7, v.to_le_bytes().to_vec()),
        Value::Real(v) => (8, v.to_le_bytes().to_vec()),
        Value::Float(v) => (9, v.to_le_bytes().to_vec()),
        Value::Char(v) => (10, vec![*v]),
        _ => return Err("nyi: the simulator takes from atoms only".into()),
    };
    let bytes = count.saturating_mul(item.len() as u64);
    if bytes > HELD {
        let item = item.into();
        return Ok(LazyValue::Repeat { kind, item, count });
    }
    // A vector that is held has at most 8,388,608 items.
    let count = usize::try_from(count).map_err(|_| "limit")?;
    Ok(match &*items {
        Value::Bool(v) => Value::Bools(vec![*v; count]),
        Value::Byte(v) => Value::Bytes(vec![*v; count]),
        Value::Short(v) => Value::Shorts(vec![*v; count]),
        Value::Int(v) => Value::Ints(vec![*v; count]),
        Value::Long(v) => Value::Longs(vec![*v; count]),
        Value::Real(v) => Value::Reals(vec![*v; count]),
        Value::Float(v) => Value::Floats(vec![*v; count]),
        Value::Char(v) => Value::Chars(vec![*v; count]),
        _ => return Err("type".into()),
    }
    .into())
}

fn join(left: &Value, right: &Value) -> Result<LazyValue, String> {
    let texts = |value: &Value| match value {
        Value::Char(byte) => Some(vec![*byte]),
        Value::Chars(bytes) => Some(bytes.clone()),
        _ => None,
    };
    if let (Some(mut a), Some(b)) = (texts(left), texts(right)) {
        a.extend(b);
        return Ok(Value::Chars(a).into());
    }
    match (Number::of(left)?, Number::of(right)?) {
        (Number::Longs(mut a, _), Number::Longs(b, _)) => {
            a.extend(b);
            Ok(Value::Longs(a).into())
        }
        (a, b) => {
            let mut items = a.floats();
            items.extend(b.floats());
            Ok(Value::Floats(items).into())
        }
    }
}

fn negate(value: &Value) -> Result<LazyValue, String> {
    if let Value::Int(handle) = *value {
        return Ok(Value::Int(handle.wrapping_neg()).into());
    }
    Ok(match Number::of(value)? {
        Number::Longs(v, atom) => Number::Longs(v.iter().map(|v| v.wrapping_neg()).collect(), atom),
        Number::Floats(v, atom) => Number::Floats(v.iter().map(|v| -v).collect(), atom),
    }
    .into_value()
    .into())
}

fn reduce(name: &str, number: &Number) -> Result<LazyValue, String> {
    if name == "avg" {
        let items = number.clone().floats();
        let sum: f64 = items.iter().sum();
        return Ok(Value::Float(sum / float(items.len() as u64)).into());
    }
    Ok(match number {
        Number::Longs(v, _) => Value::Long(match name {
            "sum" => v.iter().fold(0, |a: i64, b| a.wrapping_add(*b)),
            "max" => v.iter().copied().max().unwrap_or(i64::MIN),
            "min" => v.iter().copied().min().unwrap_or(i64::MAX),
            "first" => v.first().copied().unwrap_or(i64::MIN),
            _ => v.last().copied().unwrap_or(i64::MIN),
        }),
        Number::Floats(v, _) => Value::Float(match name {
            "sum" => v.iter().sum(),
            "max" => v.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            "min" => v.iter().copied().fold(f64::INFINITY, f64::min),
            "first" => v.first().copied().unwrap_or(f64::NAN),
            _ => v.last().copied().unwrap_or(f64::NAN),
        }),
    }
    .into())
}

/// The numbers in a value, as longs or floats. The flag tells an atom from a vector of one item.
#[derive(Debug, Clone)]
enum Number {
    Longs(Vec<i64>, bool),
    Floats(Vec<f64>, bool),
}

impl Number {
    fn of(value: &Value) -> Result<Self, String> {
        Ok(match value {
            Value::Bool(v) => Self::Longs(vec![i64::from(*v)], true),
            Value::Byte(v) => Self::Longs(vec![i64::from(*v)], true),
            Value::Short(v) => Self::Longs(vec![i64::from(*v)], true),
            Value::Int(v) => Self::Longs(vec![i64::from(*v)], true),
            Value::Long(v) => Self::Longs(vec![*v], true),
            Value::Real(v) => Self::Floats(vec![f64::from(*v)], true),
            Value::Float(v) => Self::Floats(vec![*v], true),
            Value::Bools(v) => Self::Longs(v.iter().map(|v| i64::from(*v)).collect(), false),
            Value::Bytes(v) => Self::Longs(v.iter().map(|v| i64::from(*v)).collect(), false),
            Value::Shorts(v) => Self::Longs(v.iter().map(|v| i64::from(*v)).collect(), false),
            Value::Ints(v) => Self::Longs(v.iter().map(|v| i64::from(*v)).collect(), false),
            Value::Longs(v) => Self::Longs(v.clone(), false),
            Value::Reals(v) => Self::Floats(v.iter().map(|v| f64::from(*v)).collect(), false),
            Value::Floats(v) => Self::Floats(v.clone(), false),
            _ => return Err("type".into()),
        })
    }

    fn is_atom(&self) -> bool {
        match self {
            Self::Longs(_, atom) | Self::Floats(_, atom) => *atom,
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "q does the same")]
    fn floats(self) -> Vec<f64> {
        match self {
            Self::Longs(v, _) => v.into_iter().map(|v| v as f64).collect(),
            Self::Floats(v, _) => v,
        }
    }

    fn into_value(self) -> Value {
        match self {
            Self::Longs(v, true) => Value::Long(v.first().copied().unwrap_or(i64::MIN)),
            Self::Longs(v, false) => Value::Longs(v),
            Self::Floats(v, true) => Value::Float(v.first().copied().unwrap_or(f64::NAN)),
            Self::Floats(v, false) => Value::Floats(v),
        }
    }
}

fn pairs<T: Copy>(
    a: &[T],
    b: &[T],
    atoms: (bool, bool),
    f: impl Fn(T, T) -> T,
) -> Result<Vec<T>, String> {
    match (atoms, a, b) {
        ((true, _), [a], b) => Ok(b.iter().map(|b| f(*a, *b)).collect()),
        ((_, true), a, [b]) => Ok(a.iter().map(|a| f(*a, *b)).collect()),
        _ if a.len() == b.len() => Ok(a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect()),
        _ => Err("length".into()),
    }
}

fn kind(data: &LazyValue) -> i16 {
    match data {
        LazyValue::Value(value) => {
            let byte = value.encode().first().copied().unwrap_or_default();
            i16::from(i8::from_le_bytes([byte]))
        }
        LazyValue::Til(_) => 7,
        LazyValue::Repeat { kind, .. } => i16::from(*kind),
        LazyValue::Function(_) => 100,
    }
}

fn long(count: u64) -> Value {
    Value::Long(i64::try_from(count).unwrap_or(i64::MAX))
}

#[allow(clippy::cast_precision_loss, reason = "a count of items")]
fn float(count: u64) -> f64 {
    count as f64
}
