//! What a script says, line by line.

/// A whole file.
#[derive(Debug, Default)]
pub struct Script {
    /// The `--name=value` lines at its head.
    pub options: Vec<(usize, String, String)>,
    /// Everything else, in order.
    pub events: Vec<Event>,
}

#[derive(Debug, Clone)]
pub struct Event {
    pub line: usize,
    pub when: When,
    pub action: Action,
    /// The first line of it as it stands in the file.
    pub text: String,
}

/// Times in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before everything: a command without a time.
    Start,
    /// Since the script began.
    At(i64),
    /// Since the event before.
    After(i64),
    /// Whenever it happens.
    Any,
    Between(i64, i64),
    BetweenAfter(i64, i64),
}

#[derive(Debug, Clone)]
pub enum Action {
    Inject(Packet),
    Expect(Packet),
    Call(Call),
    Command(String),
    Code(String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Packet {
    /// The remote and the local port, in the order of the packet's direction, where the script
    /// names them: an extension for scripts with more than one connection.
    pub ports: Option<(u16, u16)>,
    /// The IP header's ECN field.
    pub ecn: Option<u8>,
    pub body: Body,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    Tcp(Tcp),
    Icmp(Icmp),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Tcp {
    pub flags: u8,
    pub seq: u32,
    pub len: u32,
    pub ack: Option<u32>,
    pub win: Option<u16>,
    pub urgent: u16,
    /// `None`: `<...>`, whatever they are.
    pub options: Option<Options>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Options {
    pub mss: Option<u16>,
    pub wscale: Option<u8>,
    pub sack_ok: bool,
    pub stamps: Option<(Stamp, Stamp)>,
    pub sack: Vec<(u32, u32)>,
}

/// A timestamp: a number, or a name that stands for what the engine sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Stamp {
    Number(u32),
    Name(String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Icmp {
    pub kind: String,
    pub code: String,
    pub mtu: u16,
    /// The segment it quotes: sequence number and length of its payload.
    pub quoted: Option<(u32, u32)>,
}

#[derive(Debug, Clone)]
pub struct Call {
    /// When it returns, if it waits; on the clock of its event's time.
    pub end: Option<i64>,
    pub name: String,
    pub arguments: Vec<Expr>,
    pub result: Expr,
    pub errno: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Expr {
    /// `...`
    Any,
    Int(i64),
    Word(String),
    Str(String),
    /// `a | b`
    Or(Vec<Expr>),
    /// `[a, b]`
    List(Vec<Expr>),
    /// `{name=a, name=b}` or `{a, b}`, where names are empty.
    Braces(Vec<(String, Expr)>),
    /// `htons(8080)`
    Apply(String, Vec<Expr>),
}

/// What is wrong with a script, and where.
#[derive(Debug)]
pub struct Wrong {
    pub line: usize,
    pub what: String,
}
