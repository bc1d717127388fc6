//! Reads values.

use super::{Table, Value};
use crate::frame::{HEADER_LEN, Header, HeaderError};

/// Levels of nested lists, tables and dictionaries that [`decode`] follows.
pub const MAX_DEPTH: usize = 32;

/// The reason why bytes are not a q value that [`decode`] reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside the value.
    #[error("a q value ends too early")]
    Truncated,
    /// The type byte is unknown, or stands for a type that [`Value`] does not have.
    #[error("a q value of type {0}, which is not read here")]
    Type(u8),
    /// The count of a vector is negative.
    #[error("a q vector with a negative count")]
    Count,
    /// The value is nested more than [`MAX_DEPTH`] levels deep.
    #[error("a q value nested more than {MAX_DEPTH} deep")]
    TooDeep,
    /// A table is not a dictionary of column names and equally many columns.
    #[error("a q table that is no dictionary of columns")]
    Table,
    /// This many bytes follow the value.
    #[error("{0} bytes after the end of a q value")]
    Trailing(usize),
    /// The message is compressed. [`decompress`](crate::compress::decompress) gives the plain one.
    #[error("a compressed message where a plain one was expected")]
    Compressed,
    /// The message does not start with a header.
    #[error(transparent)]
    Header(#[from] HeaderError),
}

/// Reads a serialised value: the body of a plain message, without its header.
///
/// `little_endian` is the byte order that the header states.
///
/// # Errors
/// The bytes are not exactly one value of a type that [`Value`] has.
pub fn decode(body: &[u8], little_endian: bool) -> Result<Value, DecodeError> {
    let mut reader = ValueReader {
        bytes: body,
        little_endian,
    };
    let value = reader.value(MAX_DEPTH)?;
    match reader.bytes.len() {
        0 => Ok(value),
        left => Err(DecodeError::Trailing(left)),
    }
}

/// Reads a complete plain message: its header and the value in its body.
///
/// # Errors
/// The message is compressed or damaged, or its value has a type that [`Value`] does not have.
pub fn decode_message(message: &[u8]) -> Result<(Header, Value), DecodeError> {
    let head = message
        .first_chunk::<HEADER_LEN>()
        .ok_or(DecodeError::Truncated)?;
    let header = Header::parse(*head)?;
    if header.compression != 0 {
        return Err(DecodeError::Compressed);
    }
    let value = decode(&message[HEADER_LEN..], header.little_endian)?;
    Ok((header, value))
}

struct ValueReader<'a> {
    bytes: &'a [u8],
    little_endian: bool,
}

impl<'a> ValueReader<'a> {
    fn value(&mut self, depth: usize) -> Result<Value, DecodeError> {
        let depth = depth.checked_sub(1).ok_or(DecodeError::TooDeep)?;
        let kind = self.byte()?;
        Ok(match kind {
            0xff => Value::Bool(self.byte()? != 0),
            0xfe => Value::Guid(self.raw()?),
            0xfc => Value::Byte(self.byte()?),
            0xfb => Value::Short(i16::from_le_bytes(self.fixed()?)),
            0xfa => Value::Int(i32::from_le_bytes(self.fixed()?)),
            0xf9 => Value::Long(i64::from_le_bytes(self.fixed()?)),
            0xf8 => Value::Real(f32::from_le_bytes(self.fixed()?)),
            0xf7 => Value::Float(f64::from_le_bytes(self.fixed()?)),
            0xf6 => Value::Char(self.byte()?),
            0xf5 => Value::Symbol(self.terminated()?),
            0xf4 => Value::Timestamp(i64::from_le_bytes(self.fixed()?)),
            0xf3 => Value::Month(i32::from_le_bytes(self.fixed()?)),
            0xf2 => Value::Date(i32::from_le_bytes(self.fixed()?)),
            0xf1 => Value::Datetime(f64::from_le_bytes(self.fixed()?)),
            0xf0 => Value::Timespan(i64::from_le_bytes(self.fixed()?)),
            0xef => Value::Minute(i32::from_le_bytes(self.fixed()?)),
            0xee => Value::Second(i32::from_le_bytes(self.fixed()?)),
            0xed => Value::Time(i32::from_le_bytes(self.fixed()?)),
            0x80 => Value::Error(self.terminated()?),
            0 => {
                let count = self.count(1)?;
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(self.value(depth)?);
                }
                Value::List(items)
            }
            1 => {
                let count = self.count(1)?;
                Value::Bools(self.take(count)?.iter().map(|&b| b != 0).collect())
            }
            2 => {
                let count = self.count(16)?;
                Value::Guids((0..count).map(|_| self.raw()).collect::<Result<_, _>>()?)
            }
            4 => Value::Bytes(self.chars()?),
            5 => Value::Shorts(self.vector(i16::from_le_bytes)?),
            6 => Value::Ints(self.vector(i32::from_le_bytes)?),
            7 => Value::Longs(self.vector(i64::from_le_bytes)?),
            8 => Value::Reals(self.vector(f32::from_le_bytes)?),
            9 => Value::Floats(self.vector(f64::from_le_bytes)?),
            10 => Value::Chars(self.chars()?),
            11 => {
                let count = self.count(1)?;
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(self.terminated()?);
                }
                Value::Symbols(items)
            }
            12 => Value::Timestamps(self.vector(i64::from_le_bytes)?),
            13 => Value::Months(self.vector(i32::from_le_bytes)?),
            14 => Value::Dates(self.vector(i32::from_le_bytes)?),
            15 => Value::Datetimes(self.vector(f64::from_le_bytes)?),
            16 => Value::Timespans(self.vector(i64::from_le_bytes)?),
            17 => Value::Minutes(self.vector(i32::from_le_bytes)?),
            18 => Value::Seconds(self.vector(i32::from_le_bytes)?),
            19 => Value::Times(self.vector(i32::from_le_bytes)?),
            98 => self.table(depth)?,
            99 | 127 => Value::Dict(Box::new((self.value(depth)?, self.value(depth)?))),
            100 => {
                let context = self.terminated()?;
                match self.value(depth)? {
                    Value::Chars(text) => Value::Lambda {
                        context,
                        text: String::from_utf8_lossy(&text).into_owned(),
                    },
                    _ => return Err(DecodeError::Type(100)),
                }
            }
            101 => Value::Unary(self.byte()?),
            102 | 103 => Value::Operator(kind, self.byte()?),
            other => return Err(DecodeError::Type(other)),
        })
    }

    fn table(&mut self, depth: usize) -> Result<Value, DecodeError> {
        self.byte()?;
        let Value::Dict(pair) = self.value(depth)? else {
            return Err(DecodeError::Table);
        };
        let (Value::Symbols(names), Value::List(columns)) = *pair else {
            return Err(DecodeError::Table);
        };
        if names.len() != columns.len() {
            return Err(DecodeError::Table);
        }
        Ok(Value::Table(Table {
            columns: names.into_iter().zip(columns).collect(),
        }))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(count)
            .ok_or(DecodeError::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }

    fn raw<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .bytes
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated)?;
        self.bytes = rest;
        Ok(*taken)
    }

    /// The next N bytes, in little-endian order.
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut bytes = self.raw()?;
        if !self.little_endian {
            bytes.reverse();
        }
        Ok(bytes)
    }

    /// Reads a vector's attribute and count. Refuses a count whose items, of at least `size` bytes each,
    /// are not in the input, so that no memory is allocated for them.
    fn count(&mut self, size: usize) -> Result<usize, DecodeError> {
        let count = if self.byte()? & 0x80 == 0 {
            i64::from(i32::from_le_bytes(self.fixed()?))
        } else {
            i64::from_le_bytes(self.fixed()?)
        };
        let count = usize::try_from(count).map_err(|_| DecodeError::Count)?;
        match count.checked_mul(size) {
            Some(bytes) if bytes <= self.bytes.len() => Ok(count),
            _ => Err(DecodeError::Truncated),
        }
    }

    fn vector<T, const N: usize>(&mut self, read: fn([u8; N]) -> T) -> Result<Vec<T>, DecodeError> {
        let count = self.count(N)?;
        (0..count).map(|_| Ok(read(self.fixed()?))).collect()
    }

    fn chars(&mut self) -> Result<Vec<u8>, DecodeError> {
        let count = self.count(1)?;
        Ok(self.take(count)?.to_vec())
    }

    fn terminated(&mut self) -> Result<String, DecodeError> {
        let end = self
            .bytes
            .iter()
            .position(|&b| b == 0)
            .ok_or(DecodeError::Truncated)?;
        let text = String::from_utf8_lossy(&self.bytes[..end]).into_owned();
        self.bytes = &self.bytes[end + 1..];
        Ok(text)
    }
}
