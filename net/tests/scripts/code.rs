//! The `%{ }%` parts of a script: assertions in the Python of packetdrill's files, of which the
//! arithmetic is here and nothing else.

use std::collections::HashMap;

/// A number of Python; a truth value is 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Value(f64);

type Evaluated = Result<Value, String>;

/// Looks up a name.
pub type Names<'a> = dyn Fn(&str) -> Result<f64, String> + 'a;

/// Runs the statements of `text`: `assert`, assignments to `variables`, and `print`, which does
/// nothing. An assertion that fails is an error that names what is in it.
pub fn run(
    text: &str,
    names: &Names<'_>,
    variables: &mut HashMap<String, f64>,
) -> Result<(), String> {
    for statement in statements(text) {
        let statement = statement.trim();
        if statement.is_empty() || statement.starts_with("print") || statement.starts_with('#') {
            continue;
        }
        let lookup = |name: &str| match variables.get(name) {
            Some(value) => Ok(*value),
            None => names(name),
        };
        if let Some(condition) = statement.strip_prefix("assert") {
            let mut at = Evaluator { rest: condition, names: &lookup, seen: Vec::new() };
            let value = at.or()?;
            at.rest = at.rest.trim_start();
            if !at.rest.is_empty() && !at.rest.starts_with(',') {
                return Err(format!("`{}` is not understood in `{statement}`", at.rest));
            }
            if value.0 == 0.0 {
                return Err(format!("failed: {statement}\n  where {}", at.seen.join(", ")));
            }
        } else if let Some((name, value)) = statement.split_once('=')
            && name.trim().chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            let mut at = Evaluator { rest: value, names: &lookup, seen: Vec::new() };
            let value = at.or()?;
            if !at.rest.trim().is_empty() {
                return Err(format!("`{}` is not understood in `{statement}`", at.rest));
            }
            variables.insert(name.trim().into(), value.0);
        } else {
            return Err(format!("only assertions and assignments are known here: `{statement}`"));
        }
    }
    Ok(())
}

/// Cut at line ends and semicolons, but not within parentheses.
fn statements(text: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut depth = 0;
    for c in text.chars() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '\n' | ';' if depth == 0 => {
                all.push(String::new());
                continue;
            }
            _ => {}
        }
        all.last_mut().expect("there is one").push(c);
    }
    all
}

struct Evaluator<'a> {
    rest: &'a str,
    names: &'a Names<'a>,
    /// Names and what they stood for.
    seen: Vec<String>,
}

impl Evaluator<'_> {
    fn eat(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        let Some(after) = self.rest.strip_prefix(token) else { return false };
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if token.ends_with(word) && after.starts_with(word) {
            return false;
        }
        self.rest = after;
        true
    }

    fn or(&mut self) -> Evaluated {
        let mut left = self.and()?;
        while self.eat("or") {
            let right = self.and()?;
            left = if left.0 != 0.0 { left } else { right };
        }
        Ok(left)
    }

    fn and(&mut self) -> Evaluated {
        let mut left = self.not()?;
        while self.eat("and") {
            let right = self.not()?;
            left = if left.0 == 0.0 { left } else { right };
        }
        Ok(left)
    }

    fn not(&mut self) -> Evaluated {
        if self.eat("not") {
            return Ok(Value(truth(self.not()?.0 == 0.0)));
        }
        self.comparison()
    }

    /// `a <= b < c`, all of which has to hold.
    fn comparison(&mut self) -> Evaluated {
        let mut left = self.bits()?;
        let mut all = None;
        loop {
            let holds: fn(f64, f64) -> bool = if self.eat("==") {
                |a, b| a == b
            } else if self.eat("!=") {
                |a, b| a != b
            } else if self.eat("<=") {
                |a, b| a <= b
            } else if self.eat(">=") {
                |a, b| a >= b
            } else if self.eat("<") {
                |a, b| a < b
            } else if self.eat(">") {
                |a, b| a > b
            } else {
                return Ok(all.map_or(left, |all| Value(truth(all))));
            };
            let right = self.bits()?;
            all = Some(all.unwrap_or(true) && holds(left.0, right.0));
            left = right;
        }
    }

    fn bits(&mut self) -> Evaluated {
        let mut left = self.sum()?;
        loop {
            let bits: fn(i64, i64) -> i64 = if self.eat("|") {
                |a, b| a | b
            } else if self.eat("&") {
                |a, b| a & b
            } else if self.eat("^") {
                |a, b| a ^ b
            } else if self.eat("<<") {
                |a, b| a << (b & 63)
            } else {
                return Ok(left);
            };
            let right = self.sum()?;
            left = Value(bits(left.0 as i64, right.0 as i64) as f64);
        }
    }

    fn sum(&mut self) -> Evaluated {
        let mut left = self.product()?;
        loop {
            if self.eat("+") {
                left = Value(left.0 + self.product()?.0);
            } else if self.eat("-") {
                left = Value(left.0 - self.product()?.0);
            } else {
                return Ok(left);
            }
        }
    }

    fn product(&mut self) -> Evaluated {
        let mut left = self.unary()?;
        loop {
            if self.eat("//") {
                left = Value((left.0 / self.divisor()?).floor());
            } else if self.eat("/") {
                left = Value(left.0 / self.divisor()?);
            } else if self.eat("*") {
                left = Value(left.0 * self.unary()?.0);
            } else if self.eat("%") {
                let by = self.divisor()?;
                left = Value(left.0 - by * (left.0 / by).floor());
            } else {
                return Ok(left);
            }
        }
    }

    fn divisor(&mut self) -> Result<f64, String> {
        match self.unary()?.0 {
            0.0 => Err("a division by zero".into()),
            value => Ok(value),
        }
    }

    fn unary(&mut self) -> Evaluated {
        if self.eat("-") {
            return Ok(Value(-self.unary()?.0));
        }
        self.atom()
    }

    fn atom(&mut self) -> Evaluated {
        if self.eat("(") {
            let value = self.or()?;
            if self.eat(")") {
                return Ok(value);
            }
            return Err(format!("`)` is missing before `{}`", self.rest));
        }
        let other = |c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.';
        let word = &self.rest[..self.rest.find(other).unwrap_or(self.rest.len())];
        self.rest = &self.rest[word.len()..];
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            let value = match word.strip_prefix("0x") {
                Some(hex) => u32::from_str_radix(hex, 16).ok().map(f64::from),
                None => word.parse().ok(),
            };
            return value.map(Value).ok_or(format!("`{word}` is no number"));
        }
        let value = match word {
            "" => return Err(format!("`{}` is not understood", self.rest)),
            "True" => 1.0,
            "False" => 0.0,
            "abs" | "min" | "max" => return self.function(word),
            _ => (self.names)(word)?,
        };
        self.seen.push(format!("{word} is {value}"));
        Ok(Value(value))
    }

    fn function(&mut self, name: &str) -> Evaluated {
        if !self.eat("(") {
            return Err(format!("`(` is missing after {name}"));
        }
        let mut value = self.or()?.0;
        while self.eat(",") {
            let next = self.or()?.0;
            value = if name == "min" { value.min(next) } else { value.max(next) };
        }
        if !self.eat(")") {
            return Err(format!("`)` is missing after {name}"));
        }
        Ok(Value(if name == "abs" { value.abs() } else { value }))
    }
}

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}
