//! The q types as one Rust enum, read and written in both byte orders.
//!
//! ```
//! use q_ipc::value::{Table, Value, decode};
//!
//! // ([] sym:`a`b; size:10 20)
//! let table = Table::new()
//!     .with("sym", Value::Symbols(vec!["a".into(), "b".into()]))
//!     .with("size", Value::Longs(vec![10, 20]));
//! assert_eq!(table.rows(), 2);
//!
//! let body = Value::Table(table).encode(); // little-endian, without a message header
//! let Value::Table(read) = decode(&body, true)? else {
//!     panic!("a table");
//! };
//! assert_eq!(read.column("size"), Some(&Value::Longs(vec![10, 20])));
//! # Ok::<(), q_ipc::value::DecodeError>(())
//! ```
//!
//! Nulls and infinities are the numbers that q uses for them, such as `i64::MIN` for `0N`. Attributes
//! (`` `s# `` and others) are skipped when a value is read, and never written.
//!
//! Source: <https://code.kx.com/q/kb/serialization/>. A vector of more than 2^31-1 items has bit 7 of
//! its attribute byte set and an 8-byte count, as KX's `c.java` writes it.

mod decode;
mod encode;

pub use decode::{DecodeError, MAX_DEPTH, decode, decode_message};
pub use encode::vector_header;

/// A q value. Singular variants are atoms, plural ones are vectors of the same type.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Type -1, boolean.
    Bool(bool),
    /// Type -2, guid: 16 bytes in the order in which q prints them.
    Guid([u8; 16]),
    /// Type -4, byte.
    Byte(u8),
    /// Type -5, short. Null: `i16::MIN`.
    Short(i16),
    /// Type -6, int. Null: `i32::MIN`.
    Int(i32),
    /// Type -7, long. Null: `i64::MIN`.
    Long(i64),
    /// Type -8, real. Null: NaN.
    Real(f32),
    /// Type -9, float. Null: NaN.
    Float(f64),
    /// Type -10, char: one byte in the sender's character set.
    Char(u8),
    /// Type -11, symbol. [`decode`] replaces bytes that are not UTF-8 by `U+FFFD`.
    Symbol(String),
    /// Type -12, timestamp: nanoseconds since 2000-01-01.
    Timestamp(i64),
    /// Type -13, month: months since 2000-01.
    Month(i32),
    /// Type -14, date: days since 2000-01-01.
    Date(i32),
    /// Type -15, datetime: days since 2000-01-01, the time of day as their fraction.
    Datetime(f64),
    /// Type -16, timespan: nanoseconds.
    Timespan(i64),
    /// Type -17, minute: minutes since midnight.
    Minute(i32),
    /// Type -18, second: seconds since midnight.
    Second(i32),
    /// Type -19, time: milliseconds since midnight.
    Time(i32),
    /// Type 1, booleans.
    Bools(Vec<bool>),
    /// Type 2, guids.
    Guids(Vec<[u8; 16]>),
    /// Type 4, bytes.
    Bytes(Vec<u8>),
    /// Type 5, shorts.
    Shorts(Vec<i16>),
    /// Type 6, ints.
    Ints(Vec<i32>),
    /// Type 7, longs.
    Longs(Vec<i64>),
    /// Type 8, reals.
    Reals(Vec<f32>),
    /// Type 9, floats.
    Floats(Vec<f64>),
    /// Type 10, chars: a q string.
    Chars(Vec<u8>),
    /// Type 11, symbols.
    Symbols(Vec<String>),
    /// Type 12, timestamps: nanoseconds since 2000-01-01.
    Timestamps(Vec<i64>),
    /// Type 13, months since 2000-01.
    Months(Vec<i32>),
    /// Type 14, dates: days since 2000-01-01.
    Dates(Vec<i32>),
    /// Type 15, datetimes: days since 2000-01-01, with a fraction.
    Datetimes(Vec<f64>),
    /// Type 16, timespans: nanoseconds.
    Timespans(Vec<i64>),
    /// Type 17, minutes since midnight.
    Minutes(Vec<i32>),
    /// Type 18, seconds since midnight.
    Seconds(Vec<i32>),
    /// Type 19, times: milliseconds since midnight.
    Times(Vec<i32>),
    /// Type 0, a list of values of any types.
    List(Vec<Value>),
    /// Type 98, a table.
    Table(Table),
    /// Type 99, a dictionary: its keys and its values. [`decode`] also reads a sorted dictionary, type
    /// 127, as this. A keyed table is a dictionary of two tables.
    Dict(Box<(Value, Value)>),
    /// Type 100, a function written in q.
    Lambda {
        /// The namespace in which it was defined, without the leading dot; empty for the root.
        context: String,
        /// Its source text, with the braces.
        text: String,
    },
    /// Type 101, a unary primitive by its number; 0 is the generic null `::`.
    Unary(u8),
    /// An operator (type 102) or an iterator (type 103): the type, and the number of the primitive.
    Operator(u8, u8),
    /// Type -128, an error: the response to a request that failed.
    Error(String),
}

/// A q table: named columns with equally many items. Nothing here checks the counts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    /// Name and items of each column, in order.
    pub columns: Vec<(String, Value)>,
}

impl Table {
    /// A table without columns.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a column at the right.
    #[must_use]
    pub fn with(mut self, name: &str, items: Value) -> Self {
        self.columns.push((name.to_owned(), items));
        self
    }

    /// The items of the first column with this name.
    pub fn column(&self, name: &str) -> Option<&Value> {
        self.columns
            .iter()
            .find(|(column, _)| column == name)
            .map(|(_, items)| items)
    }

    /// Number of rows: the count of the first column, 0 without columns.
    pub fn rows(&self) -> usize {
        self.columns.first().map_or(0, |(_, items)| items.count())
    }
}

impl Value {
    /// The generic null, `::`.
    pub const NULL: Self = Self::Unary(0);

    /// A char vector with this text, in UTF-8.
    pub fn text(text: &str) -> Self {
        Self::Chars(text.as_bytes().to_vec())
    }

    /// A list of char vectors, one for each text.
    pub fn texts<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Self {
        Self::List(texts.into_iter().map(|t| Self::text(t.as_ref())).collect())
    }

    /// The text of a symbol, a char or a char vector; `None` for other types. Bytes that are not UTF-8
    /// become `U+FFFD`.
    pub fn as_text(&self) -> Option<String> {
        match self {
            Self::Symbol(text) => Some(text.clone()),
            Self::Char(byte) => Some(String::from_utf8_lossy(&[*byte]).into_owned()),
            Self::Chars(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    /// The texts of a symbol vector, or of a list of symbols, chars and char vectors; `None` for other
    /// types.
    pub fn as_texts(&self) -> Option<Vec<String>> {
        match self {
            Self::Symbols(texts) => Some(texts.clone()),
            Self::List(items) => items.iter().map(Self::as_text).collect(),
            _ => None,
        }
    }

    /// The result of q's `count`: 1 for an atom, rows for a table, keys for a dictionary.
    pub fn count(&self) -> usize {
        match self {
            Self::Bools(v) => v.len(),
            Self::Guids(v) => v.len(),
            Self::Bytes(v) | Self::Chars(v) => v.len(),
            Self::Shorts(v) => v.len(),
            Self::Ints(v)
            | Self::Months(v)
            | Self::Dates(v)
            | Self::Minutes(v)
            | Self::Seconds(v)
            | Self::Times(v) => v.len(),
            Self::Longs(v) | Self::Timestamps(v) | Self::Timespans(v) => v.len(),
            Self::Reals(v) => v.len(),
            Self::Floats(v) | Self::Datetimes(v) => v.len(),
            Self::Symbols(v) => v.len(),
            Self::List(v) => v.len(),
            Self::Table(table) => table.rows(),
            Self::Dict(pair) => pair.0.count(),
            _ => 1,
        }
    }

    /// Serialises this value in little-endian order, without a message header.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_in(true)
    }

    /// Serialises this value in either byte order, without a message header.
    pub fn encode_in(&self, little_endian: bool) -> Vec<u8> {
        encode::encode(self, little_endian)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn the_examples_of_the_serialization_page() {
        for (value, hex) in [
            (Value::Int(1), "fa01000000"),
            (Value::Ints(vec![1]), "06000100000001000000"),
            (Value::Bytes(vec![0, 1, 2, 3, 4]), "0400050000000001020304"),
            (
                Value::List(vec![Value::Bytes(vec![0, 1, 2, 3, 4])]),
                "0000010000000400050000000001020304",
            ),
            (
                Value::Dict(Box::new((
                    Value::Symbols(vec!["a".into(), "b".into()]),
                    Value::Ints(vec![2, 3]),
                ))),
                "630b0002000000610062000600020000000200000003000000",
            ),
            (
                Value::Table(
                    Table::new()
                        .with("a", Value::Ints(vec![2]))
                        .with("b", Value::Ints(vec![3])),
                ),
                "6200630b000200000061006200000002000000060001000000020000000600010000000300 0000",
            ),
            (
                Value::Lambda {
                    context: String::new(),
                    text: "{x+y}".into(),
                },
                "64000a00050000007b782b797d",
            ),
            (
                Value::Lambda {
                    context: "d".into(),
                    text: "{x+y}".into(),
                },
                "6464000a00050000007b782b797d",
            ),
            (Value::NULL, "6500"),
            (Value::Error("type".into()), "807479706500"),
            (Value::Symbol("abc".into()), "f561626300"),
            (Value::text(""), "0a0000000000"),
            (Value::Bool(true), "ff01"),
            (Value::Float(1.0), "f7000000000000f03f"),
        ] {
            assert_eq!(value.encode(), bytes(hex), "{value:?}");
            assert_eq!(decode(&bytes(hex), true), Ok(value));
        }
    }

    #[test]
    fn big_endian_is_read_and_written() {
        let body = bytes("06 00 00000001 00000102");
        assert_eq!(decode(&body, false), Ok(Value::Ints(vec![258])));
        assert_eq!(Value::Ints(vec![258]).encode_in(false), body);
    }

    #[test]
    fn sorted_dictionaries_and_attributes_are_read() {
        let body = bytes("7f0b0102000000610062000600020000000200000003000000");
        assert!(matches!(decode(&body, true), Ok(Value::Dict(_))));
    }

    #[test]
    fn a_count_of_eight_bytes_is_read() {
        let body = bytes("04 80 0200000000000000 0102");
        assert_eq!(decode(&body, true), Ok(Value::Bytes(vec![1, 2])));
        assert_eq!(
            vector_header(4, 0x01_004c_cb00, true),
            bytes("04 80 00cb4c0001000000")
        );
    }

    #[test]
    fn a_count_that_the_input_does_not_hold_allocates_nothing() {
        assert_eq!(
            decode(&bytes("07 00 ffffff7f 00"), true),
            Err(DecodeError::Truncated)
        );
        assert_eq!(
            decode(&bytes("00 00 ffffff7f 00"), true),
            Err(DecodeError::Truncated)
        );
        assert_eq!(
            decode(&bytes("07 00 ffffffff 00"), true),
            Err(DecodeError::Count)
        );
    }

    #[test]
    fn nesting_is_bounded() {
        let body = bytes("000001000000").repeat(100);
        assert_eq!(decode(&body, true), Err(DecodeError::TooDeep));
    }

    #[test]
    fn what_is_left_over_is_an_error() {
        assert_eq!(
            decode(&bytes("650000"), true),
            Err(DecodeError::Trailing(1))
        );
        assert_eq!(decode(&[], true), Err(DecodeError::Truncated));
        assert_eq!(decode(&[90], true), Err(DecodeError::Type(90)));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let name = "[a-z]{0,4}";
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<[u8; 16]>().prop_map(Value::Guid),
            any::<i16>().prop_map(Value::Short),
            any::<i32>().prop_map(Value::Date),
            any::<i64>().prop_map(Value::Timestamp),
            (-1e9f64..1e9).prop_map(Value::Float),
            (-1e9f32..1e9).prop_map(Value::Real),
            name.prop_map(Value::Symbol),
            name.prop_map(Value::Error),
            proptest::collection::vec(any::<bool>(), 0..4).prop_map(Value::Bools),
            proptest::collection::vec(any::<i16>(), 0..4).prop_map(Value::Shorts),
            proptest::collection::vec(any::<i32>(), 0..4).prop_map(Value::Times),
            proptest::collection::vec(any::<i64>(), 0..4).prop_map(Value::Timespans),
            proptest::collection::vec(any::<u8>(), 0..9).prop_map(Value::Chars),
            proptest::collection::vec(-1e9f64..1e9, 0..4).prop_map(Value::Floats),
            proptest::collection::vec(any::<[u8; 16]>(), 0..3).prop_map(Value::Guids),
            proptest::collection::vec(name, 0..4).prop_map(Value::Symbols),
            (name, name).prop_map(|(context, text)| Value::Lambda { context, text }),
        ];
        leaf.prop_recursive(3, 20, 4, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
                (inner.clone(), inner.clone())
                    .prop_map(|(keys, values)| Value::Dict(Box::new((keys, values)))),
                proptest::collection::vec((name, inner), 1..4)
                    .prop_map(|columns| Value::Table(Table { columns })),
            ]
        })
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(value in any_value(), little in any::<bool>()) {
            prop_assert_eq!(decode(&value.encode_in(little), little), Ok(value));
        }

        #[test]
        fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&body, true);
            let _ = decode(&body, false);
        }

        #[test]
        fn damaged_values_are_read_or_refused(
            value in any_value(), at in any::<proptest::sample::Index>(), byte in any::<u8>()
        ) {
            let mut body = value.encode();
            let at = at.index(body.len());
            body[at] = byte;
            let _ = decode(&body, true);
            let _ = decode(&body[..at], true);
        }
    }
}
