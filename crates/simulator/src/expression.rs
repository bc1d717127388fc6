//! Parses the expressions that a simulated node knows. As in q, operators have no precedence and
//! associate to the right.

use q_ipc::value::Value;

/// Levels of nested expressions that are parsed.
const MAX_DEPTH: usize = 64;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expression {
    Constant(Value),
    Name(String),
    Assign(String, Box<Expression>),
    Dyad(char, Box<Expression>, Box<Expression>),
    Apply(Box<Expression>, Vec<Expression>),
    Signal(Box<Expression>),
    Lambda(Lambda),
    List(Vec<Expression>),
    Table(Vec<(String, Expression)>),
    /// Expressions between semicolons; the last one gives the result.
    Sequence(Vec<Expression>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lambda {
    pub(crate) text: String,
    pub(crate) parameters: Vec<String>,
    pub(crate) body: Box<Expression>,
}

/// Parses an expression; `None` if a node does not know it.
pub(crate) fn parse(text: &str) -> Option<Expression> {
    let tokens = tokens(text)?;
    let mut parser = Parser {
        text,
        tokens: &tokens,
        at: 0,
        depth: 0,
    };
    let expression = parser.sequence(None)?;
    (parser.at == tokens.len()).then_some(expression)
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Number(Value),
    Text(Vec<u8>),
    Symbols(Vec<String>),
    Name(String),
    Mark(char),
}

/// A token and its position in the text, in bytes.
struct TokenAt {
    token: Token,
    start: usize,
    end: usize,
}

fn tokens(text: &str) -> Option<Vec<TokenAt>> {
    let bytes = text.as_bytes();
    let mut tokens: Vec<TokenAt> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        let token = match byte {
            b' ' | b'\t' | b'\r' | b'\n' => {
                at += 1;
                continue;
            }
            b'"' => {
                let (content, next) = string(bytes, at + 1)?;
                at = next;
                Token::Text(content)
            }
            b'`' => {
                let mut symbols = Vec::new();
                while bytes.get(at) == Some(&b'`') {
                    let end = run(bytes, at + 1, |b| {
                        b.is_ascii_alphanumeric() || b"._:-/".contains(&b)
                    });
                    symbols.push(text.get(at + 1..end)?.to_owned());
                    at = end;
                }
                Token::Symbols(symbols)
            }
            b'0'..=b'9' => {
                at = run(bytes, at, |b| b.is_ascii_alphanumeric() || b == b'.');
                Token::Number(number(text.get(start..at)?)?)
            }
            b'-' if is_sign(bytes, at, tokens.last()) => {
                at = run(bytes, at + 1, |b| b.is_ascii_alphanumeric() || b == b'.');
                Token::Number(number(text.get(start..at)?)?)
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'.' => {
                at = run(bytes, at, |b| {
                    b.is_ascii_alphanumeric() || b == b'.' || b == b'_'
                });
                Token::Name(text.get(start..at)?.to_owned())
            }
            b'+' | b'-' | b'*' | b'%' | b'#' | b':' | b';' | b'(' | b')' | b'[' | b']' | b'{'
            | b'}' | b'\'' | b',' => {
                at += 1;
                Token::Mark(char::from(byte))
            }
            _ => return None,
        };
        tokens.push(TokenAt {
            token,
            start,
            end: at,
        });
    }
    Some(tokens)
}

/// The end of the bytes from `from` on that belong together.
fn run(bytes: &[u8], from: usize, belongs: impl Fn(u8) -> bool) -> usize {
    let more = bytes[from..].iter().take_while(|&&b| belongs(b)).count();
    from + more
}

/// Whether the minus at `at` is the sign of a number, and not an operator.
fn is_sign(bytes: &[u8], at: usize, before: Option<&TokenAt>) -> bool {
    let number_follows = bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
    let noun_before = match before {
        Some(TokenAt {
            token: Token::Mark(mark),
            end,
            ..
        }) => matches!(mark, ')' | ']' | '}') && *end == at,
        Some(TokenAt { end, .. }) => *end == at,
        None => false,
    };
    number_follows && !noun_before
}

/// The content of a string that starts at `at`, and the position after its closing quote.
fn string(bytes: &[u8], mut at: usize) -> Option<(Vec<u8>, usize)> {
    let mut content = Vec::new();
    loop {
        match *bytes.get(at)? {
            b'"' => return Some((content, at + 1)),
            b'\\' => {
                at += 1;
                content.push(match *bytes.get(at)? {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    other => other,
                });
            }
            other => content.push(other),
        }
        at += 1;
    }
}

fn number(text: &str) -> Option<Value> {
    if let Some(hex) = text.strip_prefix("0x") {
        let pairs: Option<Vec<u8>> = hex
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect();
        return match pairs?.as_slice() {
            [byte] => Some(Value::Byte(*byte)),
            bytes => Some(Value::Bytes(bytes.to_vec())),
        };
    }
    if let Some(digits) = text.strip_suffix('b')
        && digits.bytes().all(|b| b == b'0' || b == b'1')
    {
        let flags: Vec<bool> = digits.bytes().map(|b| b == b'1').collect();
        return match flags.as_slice() {
            [flag] => Some(Value::Bool(*flag)),
            _ => Some(Value::Bools(flags)),
        };
    }
    match text {
        "0N" => return Some(Value::Long(i64::MIN)),
        "0n" => return Some(Value::Float(f64::NAN)),
        "0W" => return Some(Value::Long(i64::MAX)),
        "0w" => return Some(Value::Float(f64::INFINITY)),
        _ => {}
    }
    let (digits, suffix) = match text.char_indices().next_back()? {
        (at, suffix) if suffix.is_ascii_alphabetic() => (&text[..at], Some(suffix)),
        _ => (text, None),
    };
    match suffix {
        Some('i') => digits.parse().ok().map(Value::Int),
        Some('h') => digits.parse().ok().map(Value::Short),
        Some('j') => digits.parse().ok().map(Value::Long),
        Some('f') => digits.parse().ok().map(Value::Float),
        Some('e') => digits.parse().ok().map(Value::Real),
        Some(_) => None,
        None if digits.contains(['.', 'e']) => digits.parse().ok().map(Value::Float),
        None => digits.parse().ok().map(Value::Long),
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: &'a [TokenAt],
    /// Index of the next token.
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|at| &at.token)
    }

    fn is(&self, mark: char) -> bool {
        self.peek() == Some(&Token::Mark(mark))
    }

    fn take(&mut self, mark: char) -> bool {
        let is = self.is(mark);
        self.at += usize::from(is);
        is
    }

    /// Parses expressions between semicolons, up to `end`, which it does not consume.
    fn sequence(&mut self, end: Option<char>) -> Option<Expression> {
        let mut parts = self.items(end)?;
        match parts.len() {
            1 => parts.pop(),
            _ => Some(Expression::Sequence(parts)),
        }
    }

    fn items(&mut self, end: Option<char>) -> Option<Vec<Expression>> {
        let mut parts = Vec::new();
        loop {
            let over = match end {
                Some(mark) => self.is(mark),
                None => self.peek().is_none(),
            };
            if over || self.is(';') {
                parts.push(Expression::Constant(Value::NULL));
            } else {
                parts.push(self.expression()?);
            }
            if !self.take(';') {
                return Some(parts);
            }
        }
    }

    fn expression(&mut self) -> Option<Expression> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let expression = self.expression_at_depth();
        self.depth -= 1;
        expression
    }

    fn expression_at_depth(&mut self) -> Option<Expression> {
        if self.take('\'') {
            let text = match self.peek()? {
                Token::Name(name) => Expression::Constant(Value::Symbol(name.clone())),
                _ => return Some(Expression::Signal(Box::new(self.expression()?))),
            };
            self.at += 1;
            return Some(Expression::Signal(Box::new(text)));
        }
        let term = self.term()?;
        match self.peek() {
            Some(Token::Mark(':')) => {
                let Expression::Name(name) = term else {
                    return None;
                };
                self.at += 1;
                Some(Expression::Assign(name, Box::new(self.expression()?)))
            }
            Some(&Token::Mark(mark @ ('+' | '-' | '*' | '%' | '#' | ','))) => {
                self.at += 1;
                let right = self.expression()?;
                Some(Expression::Dyad(mark, Box::new(term), Box::new(right)))
            }
            None | Some(Token::Mark(';' | ')' | ']' | '}')) => Some(term),
            Some(_) => {
                let argument = self.expression()?;
                Some(Expression::Apply(Box::new(term), vec![argument]))
            }
        }
    }

    fn term(&mut self) -> Option<Expression> {
        let token = self.peek()?.clone();
        let start = self.tokens.get(self.at)?.start;
        self.at += 1;
        let mut term = match token {
            Token::Number(first) => self.numbers(first)?,
            Token::Text(text) => Expression::Constant(match text.as_slice() {
                [byte] => Value::Char(*byte),
                _ => Value::Chars(text),
            }),
            Token::Symbols(mut symbols) => Expression::Constant(match symbols.len() {
                1 => Value::Symbol(symbols.pop()?),
                _ => Value::Symbols(symbols),
            }),
            Token::Name(name) => Expression::Name(name),
            Token::Mark('(') => self.parenthesis()?,
            Token::Mark('{') => self.lambda(start)?,
            Token::Mark(':') if self.take(':') => Expression::Constant(Value::NULL),
            Token::Mark(_) => return None,
        };
        while self.take('[') {
            let arguments = self.items(Some(']'))?;
            if !self.take(']') {
                return None;
            }
            term = Expression::Apply(Box::new(term), arguments);
        }
        Some(term)
    }

    /// Parses numbers side by side, such as `1 2 3`, as one vector.
    fn numbers(&mut self, first: Value) -> Option<Expression> {
        let mut numbers = vec![first];
        while let Some(Token::Number(next)) = self.peek() {
            numbers.push(next.clone());
            self.at += 1;
        }
        if numbers.len() == 1 {
            return numbers.pop().map(Expression::Constant);
        }
        vector(&numbers).map(Expression::Constant)
    }

    fn parenthesis(&mut self) -> Option<Expression> {
        if self.take('[') {
            if !self.take(']') {
                return None;
            }
            let columns = self.items(Some(')'))?.into_iter().map(|part| match part {
                Expression::Assign(name, items) => Some((name, *items)),
                _ => None,
            });
            let columns = columns.collect::<Option<_>>()?;
            return self.take(')').then_some(Expression::Table(columns));
        }
        if self.take(')') {
            return Some(Expression::List(Vec::new()));
        }
        let mut items = self.items(Some(')'))?;
        if !self.take(')') {
            return None;
        }
        match items.len() {
            1 => items.pop(),
            _ => Some(Expression::List(items)),
        }
    }

    fn lambda(&mut self, start: usize) -> Option<Expression> {
        let mut parameters = Vec::new();
        if self.take('[') {
            for part in self.items(Some(']'))? {
                match part {
                    Expression::Name(name) => parameters.push(name),
                    Expression::Constant(_) => {}
                    _ => return None,
                }
            }
            if !self.take(']') {
                return None;
            }
        } else {
            parameters = ["x", "y", "z"].map(str::to_owned).to_vec();
        }
        let body = Box::new(self.sequence(Some('}'))?);
        let end = self.tokens.get(self.at)?.end;
        self.take('}').then_some(Expression::Lambda(Lambda {
            text: self.text.get(start..end)?.to_owned(),
            parameters,
            body,
        }))
    }
}

/// A vector of these numbers if they have a common type: longs and ints become ints, longs and floats
/// become floats.
pub(crate) fn vector(numbers: &[Value]) -> Option<Value> {
    let longs: Option<Vec<i64>> = numbers
        .iter()
        .map(|number| match number {
            Value::Long(v) => Some(*v),
            _ => None,
        })
        .collect();
    if let Some(longs) = longs {
        return Some(Value::Longs(longs));
    }
    if let Some(Value::Int(_)) = numbers.last() {
        let ints = numbers.iter().map(|number| match number {
            Value::Int(v) => Some(*v),
            Value::Long(v) => i32::try_from(*v).ok(),
            _ => None,
        });
        return ints.collect::<Option<_>>().map(Value::Ints);
    }
    let floats = numbers.iter().map(|number| match number {
        Value::Long(v) => Some(*v as f64),
        Value::Float(v) => Some(*v),
        _ => None,
    });
    floats.collect::<Option<_>>().map(Value::Floats)
}
