//! Writes values.

use super::Value;

/// Bit 7 of a vector's attribute byte: the count has 8 bytes, not 4.
const LONG_COUNT: u8 = 0x80;

/// The bytes before the items of a vector: its type, its attribute and its count.
///
/// `kind` is q's type number of the vector, from 0 to 19. Use this to send a vector that is too large
/// to hold in memory.
pub fn vector_header(kind: u8, count: u64, little_endian: bool) -> Vec<u8> {
    let mut bytes = vec![kind];
    match i32::try_from(count) {
        Ok(count) => {
            bytes.push(0);
            bytes.extend(ordered(count.to_le_bytes(), little_endian));
        }
        Err(_) => {
            bytes.push(LONG_COUNT);
            bytes.extend(ordered(count.to_le_bytes(), little_endian));
        }
    }
    bytes
}

pub(super) fn encode(value: &Value, little_endian: bool) -> Vec<u8> {
    let mut writer = ValueWriter {
        bytes: Vec::new(),
        little_endian,
    };
    writer.value(value);
    writer.bytes
}

fn ordered<const N: usize>(mut little: [u8; N], little_endian: bool) -> [u8; N] {
    if !little_endian {
        little.reverse();
    }
    little
}

struct ValueWriter {
    bytes: Vec<u8>,
    little_endian: bool,
}

impl ValueWriter {
    fn value(&mut self, value: &Value) {
        match value {
            Value::Bool(v) => self.atom(1, [u8::from(*v)]),
            Value::Guid(v) => {
                self.bytes.push(0xfe);
                self.bytes.extend(v);
            }
            Value::Byte(v) => self.atom(4, [*v]),
            Value::Short(v) => self.atom(5, v.to_le_bytes()),
            Value::Int(v) => self.atom(6, v.to_le_bytes()),
            Value::Long(v) => self.atom(7, v.to_le_bytes()),
            Value::Real(v) => self.atom(8, v.to_le_bytes()),
            Value::Float(v) => self.atom(9, v.to_le_bytes()),
            Value::Char(v) => self.atom(10, [*v]),
            Value::Symbol(v) => {
                self.bytes.push(0xf5);
                self.terminated(v);
            }
            Value::Timestamp(v) => self.atom(12, v.to_le_bytes()),
            Value::Month(v) => self.atom(13, v.to_le_bytes()),
            Value::Date(v) => self.atom(14, v.to_le_bytes()),
            Value::Datetime(v) => self.atom(15, v.to_le_bytes()),
            Value::Timespan(v) => self.atom(16, v.to_le_bytes()),
            Value::Minute(v) => self.atom(17, v.to_le_bytes()),
            Value::Second(v) => self.atom(18, v.to_le_bytes()),
            Value::Time(v) => self.atom(19, v.to_le_bytes()),
            Value::Bools(v) => self.vector(1, v, |v| [u8::from(*v)]),
            Value::Guids(v) => {
                self.header(2, v.len());
                self.bytes.extend(v.iter().flatten());
            }
            Value::Bytes(v) => self.raw(4, v),
            Value::Shorts(v) => self.vector(5, v, |v| v.to_le_bytes()),
            Value::Ints(v) => self.vector(6, v, |v| v.to_le_bytes()),
            Value::Longs(v) => self.vector(7, v, |v| v.to_le_bytes()),
            Value::Reals(v) => self.vector(8, v, |v| v.to_le_bytes()),
            Value::Floats(v) => self.vector(9, v, |v| v.to_le_bytes()),
            Value::Chars(v) => self.raw(10, v),
            Value::Symbols(v) => self.symbols(v.iter()),
            Value::Timestamps(v) => self.vector(12, v, |v| v.to_le_bytes()),
            Value::Months(v) => self.vector(13, v, |v| v.to_le_bytes()),
            Value::Dates(v) => self.vector(14, v, |v| v.to_le_bytes()),
            Value::Datetimes(v) => self.vector(15, v, |v| v.to_le_bytes()),
            Value::Timespans(v) => self.vector(16, v, |v| v.to_le_bytes()),
            Value::Minutes(v) => self.vector(17, v, |v| v.to_le_bytes()),
            Value::Seconds(v) => self.vector(18, v, |v| v.to_le_bytes()),
            Value::Times(v) => self.vector(19, v, |v| v.to_le_bytes()),
            Value::List(items) => self.list(items.iter()),
            Value::Table(table) => {
                self.bytes.extend([98, 0, 99]);
                self.symbols(table.columns.iter().map(|(name, _)| name));
                self.list(table.columns.iter().map(|(_, items)| items));
            }
            Value::Dict(pair) => {
                self.bytes.push(99);
                self.value(&pair.0);
                self.value(&pair.1);
            }
            Value::Lambda { context, text } => {
                self.bytes.push(100);
                self.terminated(context);
                self.raw(10, text.as_bytes());
            }
            Value::Unary(number) => self.bytes.extend([101, *number]),
            Value::Operator(kind, number) => self.bytes.extend([*kind, *number]),
            Value::Error(text) => {
                self.bytes.push(0x80);
                self.terminated(text);
            }
        }
    }

    fn atom<const N: usize>(&mut self, kind: u8, little: [u8; N]) {
        self.bytes.push(kind.wrapping_neg());
        self.bytes.extend(ordered(little, self.little_endian));
    }

    fn header(&mut self, kind: u8, count: usize) {
        self.bytes
            .extend(vector_header(kind, count as u64, self.little_endian));
    }

    fn vector<T, const N: usize>(&mut self, kind: u8, items: &[T], little: impl Fn(&T) -> [u8; N]) {
        self.header(kind, items.len());
        self.bytes.reserve(items.len() * N);
        for item in items {
            self.bytes.extend(ordered(little(item), self.little_endian));
        }
    }

    fn raw(&mut self, kind: u8, items: &[u8]) {
        self.header(kind, items.len());
        self.bytes.extend_from_slice(items);
    }

    fn symbols<'a>(&mut self, items: impl ExactSizeIterator<Item = &'a String>) {
        self.header(11, items.len());
        for item in items {
            self.terminated(item);
        }
    }

    fn list<'a>(&mut self, items: impl ExactSizeIterator<Item = &'a Value>) {
        self.header(0, items.len());
        for item in items {
            self.value(item);
        }
    }

    /// Writes a text and a NUL. The text is cut before its first NUL, which would end it on the wire.
    fn terminated(&mut self, text: &str) {
        self.bytes.extend(text.bytes().take_while(|&b| b != 0));
        self.bytes.push(0);
    }
}
