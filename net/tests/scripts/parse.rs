//! From the text of a packetdrill file to a [`Script`].
//!
//! The language is packetdrill's; what of it is understood is in docs/TESTING.md.

use crate::cursor::{Cursor, Parsed};
use crate::parse_packet;
use crate::script::{Action, Call, Event, Expr, Script, When};

pub fn parse(text: &str) -> Parsed<Script> {
    let mut at = Cursor::new(text);
    let mut script = Script::default();
    at.space()?;
    while at.rest().starts_with("--") {
        let line = at.line;
        let option = at.rest()[2..].split(['\n', ' ', '\t']).next().unwrap_or("");
        at.skip(2 + option.len());
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        script.options.push((line, name.into(), value.into()));
        at.space()?;
    }
    while !at.rest().is_empty() {
        let (line, rest) = (at.line, at.rest());
        let when = if rest.starts_with('`') { When::Start } else { time(&mut at)? };
        let action = action(&mut at)?;
        let text = rest.lines().next().unwrap_or("").trim().into();
        script.events.push(Event { line, when, action, text });
        at.space()?;
    }
    Ok(script)
}

/// `0.1`, `+.1`, `*`, `0.1~0.2` or `+.1~+.2`.
fn time(at: &mut Cursor<'_>) -> Parsed<When> {
    if at.eat("*")? {
        return Ok(When::Any);
    }
    let relative = at.eat("+")?;
    let from = at.seconds()?;
    if !at.eat("~")? {
        return Ok(if relative { When::After(from) } else { When::At(from) });
    }
    if at.eat("+")? != relative {
        return at.wrong("both ends of a range of times are relative, or neither");
    }
    let to = at.seconds()?;
    if to < from {
        return at.wrong("a range of times ends before it begins");
    }
    Ok(if relative { When::BetweenAfter(from, to) } else { When::Between(from, to) })
}

fn action(at: &mut Cursor<'_>) -> Parsed<Action> {
    if at.eat("`")? {
        return Ok(Action::Command(at.until("`")?.into()));
    }
    if at.eat("%{")? {
        return Ok(Action::Code(at.until("}%")?.into()));
    }
    if at.eat("<")? {
        let packet = parse_packet::packet(at)?;
        if let crate::script::Body::Tcp(tcp) = &packet.body
            && (tcp.win.is_none() || tcp.options.is_none())
        {
            return at.wrong("a packet to inject needs its window, and all of its options");
        }
        return Ok(Action::Inject(packet));
    }
    if at.eat(">")? {
        return Ok(Action::Expect(parse_packet::packet(at)?));
    }
    let end = if at.eat("...")? {
        at.eat("+")?;
        Some(at.seconds()?)
    } else {
        None
    };
    call(at, end).map(Action::Call)
}

fn call(at: &mut Cursor<'_>, end: Option<i64>) -> Parsed<Call> {
    let name = at.word()?.to_string();
    at.expect("(")?;
    let arguments = list(at, ")")?;
    at.expect("=")?;
    let result = expression(at)?;
    at.space()?;
    let word = at.peek_word();
    // The next line may begin with a time, never with a letter.
    let errno = if word.starts_with('E') {
        at.skip(word.len());
        Some(word.to_string())
    } else {
        None
    };
    // `(Operation now in progress)`, `(flags O_RDWR)`: for the reader.
    if at.eat("(")? {
        at.until(")")?;
    }
    Ok(Call { end, name, arguments, result, errno })
}

/// Expressions up to `end`, which is taken.
fn list(at: &mut Cursor<'_>, end: &str) -> Parsed<Vec<Expr>> {
    let mut all = Vec::new();
    if at.eat(end)? {
        return Ok(all);
    }
    loop {
        all.push(expression(at)?);
        if at.eat(end)? {
            return Ok(all);
        }
        at.expect(",")?;
    }
}

fn expression(at: &mut Cursor<'_>) -> Parsed<Expr> {
    let first = operand(at)?;
    let mut all = vec![first];
    while at.eat("|")? {
        all.push(operand(at)?);
    }
    Ok(if all.len() == 1 { all.remove(0) } else { Expr::Or(all) })
}

fn operand(at: &mut Cursor<'_>) -> Parsed<Expr> {
    at.space()?;
    let rest = at.rest();
    let Some(first) = rest.chars().next() else { return at.wrong("the script ends too soon") };
    if at.eat("...")? {
        return Ok(Expr::Any);
    }
    if at.eat("-")? {
        return Ok(Expr::Int(-(at.field::<i64>("a number")?)));
    }
    if first.is_ascii_digit() {
        return Ok(Expr::Int(at.field::<i64>("a number")?));
    }
    if at.eat("\"")? {
        return Ok(Expr::Str(at.until("\"")?.into()));
    }
    if at.eat("[")? {
        return Ok(Expr::List(list(at, "]")?));
    }
    if at.eat("{")? {
        return braces(at);
    }
    let word = at.word()?.to_string();
    if at.eat("(")? {
        return Ok(Expr::Apply(word, list(at, ")")?));
    }
    Ok(Expr::Word(word))
}

fn braces(at: &mut Cursor<'_>) -> Parsed<Expr> {
    let mut members = Vec::new();
    loop {
        at.space()?;
        let word = at.peek_word();
        let mut after = at.rest()[word.len()..].trim_start();
        if let Some((_, rest)) = after.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            after = rest.trim_start();
        }
        let named = after.starts_with('=') && !word.is_empty();
        let name = if named { at.word()?.to_string() } else { String::new() };
        if named {
            // `msg_iov(1)=`: how many there are is for the reader.
            if at.eat("(")? {
                at.until(")")?;
            }
            at.expect("=")?;
        }
        members.push((name, expression(at)?));
        if at.eat("}")? {
            return Ok(Expr::Braces(members));
        }
        at.expect(",")?;
    }
}
