use crate::address;
use crate::field::{Field, Shape};
use crate::lines::Lines;
use crate::node::{Node, excerpt};
use crate::problem::{Cause, Problem};
use crate::value::{RelayNode, Value};

/// Reads the values of keys and collects what is wrong with them.
pub(crate) struct Decoder<'a> {
    pub(crate) lines: &'a Lines,
    pub(crate) problems: Vec<Problem>,
}

impl Decoder<'_> {
    pub(crate) fn tell(&mut self, problem: Problem) {
        let line = self.lines.of_key(&problem.path);
        self.problems.push(problem.at(line));
    }

    /// The value, or `None` where the default counts or a problem was told.
    pub(crate) fn value(&mut self, field: &Field, node: &Node, path: &str) -> Option<Value> {
        if *node == Node::Null && field.shape != Shape::Anything {
            return None;
        }
        let value = match field.shape {
            Shape::Flag => Value::Flag(self.flag(node, path)?),
            Shape::Number(..) | Shape::Integer | Shape::Port => {
                Value::Number(self.number(field, node, path)?)
            }
            Shape::Fraction => Value::Fraction(self.fraction(node, path)?),
            Shape::Addresses | Shape::Cidrs | Shape::RelayAddresses => {
                Value::List(self.list(field.shape, node, path)?)
            }
            Shape::Relays => Value::Relays(self.relays(node, path)?),
            Shape::Anything => Value::Anything,
            Shape::Text
            | Shape::OneOf(_)
            | Shape::File
            | Shape::AbsolutePath
            | Shape::Url
            | Shape::Ip
            | Shape::Listen
            | Shape::Interfaces
            | Shape::Nets
            | Shape::Domain
            | Shape::LogLevel
            | Shape::Device => Value::Text(self.text(node, path, field.shape)?),
        };
        if field.is_used()
            && let Err(wrong) = fits(field.shape, &value)
        {
            self.tell(Problem::error(Cause::InvalidValue, path, wrong));
            return None;
        }
        Some(value)
    }

    fn wrong_type(&mut self, path: &str, node: &Node, expected: &str) {
        let text = format!("{} was found, {expected} is expected", node.found());
        self.tell(Problem::error(Cause::WrongType, path, text));
    }

    fn flag(&mut self, node: &Node, path: &str) -> Option<bool> {
        let word = match node {
            Node::Flag(flag) => return Some(*flag),
            Node::Text(text) => text.to_ascii_lowercase(),
            Node::Null | Node::Integer(_) | Node::Fraction(_) | Node::List(_) | Node::Block(_) => {
                String::new()
            }
        };
        // Flags of YAML 1.1, which Go EdgeMesh reads.
        let flag = match word.as_str() {
            "yes" | "on" | "y" => true,
            "no" | "off" | "n" => false,
            _ => {
                self.wrong_type(path, node, &Shape::Flag.expected());
                return None;
            }
        };
        let text = format!("{} is taken for {flag}; write {flag}", node.found());
        self.tell(Problem::warning(Cause::Coerced, path, text));
        Some(flag)
    }

    fn number(&mut self, field: &Field, node: &Node, path: &str) -> Option<i64> {
        match node {
            Node::Integer(number) => Some(*number),
            Node::Fraction(number) if number.fract() == 0.0 && number.abs() < f64::from(i32::MAX) => {
                Some(*number as i64)
            }
            Node::Null
            | Node::Flag(_)
            | Node::Fraction(_)
            | Node::Text(_)
            | Node::List(_)
            | Node::Block(_) => {
                let mut expected = field.shape.expected();
                if matches!(node, Node::Text(text) if text.trim().parse::<i64>().is_ok()) {
                    expected.push_str(" without quotes");
                }
                self.wrong_type(path, node, &expected);
                None
            }
        }
    }

    fn fraction(&mut self, node: &Node, path: &str) -> Option<f64> {
        match node {
            Node::Integer(number) => Some(*number as f64),
            Node::Fraction(number) => Some(*number),
            Node::Null | Node::Flag(_) | Node::Text(_) | Node::List(_) | Node::Block(_) => {
                self.wrong_type(path, node, &Shape::Fraction.expected());
                None
            }
        }
    }

    /// Text; a number or flag counts as what it looks like, as in Go EdgeMesh.
    fn text(&mut self, node: &Node, path: &str, shape: Shape) -> Option<String> {
        let text = match node {
            Node::Text(text) => return Some(text.trim().to_owned()),
            Node::Flag(flag) => flag.to_string(),
            Node::Integer(number) => number.to_string(),
            Node::Fraction(number) => number.to_string(),
            Node::Null | Node::List(_) | Node::Block(_) => {
                self.wrong_type(path, node, &shape.expected());
                return None;
            }
        };
        let message = format!("{} is taken for the text {text:?}; write quotes", node.found());
        self.tell(Problem::warning(Cause::Coerced, path, message));
        Some(text)
    }

    fn list(&mut self, shape: Shape, node: &Node, path: &str) -> Option<Vec<String>> {
        let Node::List(items) = node else {
            self.wrong_type(path, node, &shape.expected());
            return None;
        };
        let before = self.problems.len();
        let mut list = Vec::new();
        for (index, item) in items.iter().enumerate().filter(|(_, item)| **item != Node::Null) {
            let path = format!("{path}[{index}]");
            let Some(text) = self.text(item, &path, Shape::Text).filter(|text| !text.is_empty()) else {
                continue;
            };
            if let Err(wrong) = item_fits(shape, &text) {
                self.tell(Problem::error(Cause::InvalidValue, path, wrong));
            }
            list.push(text);
        }
        (!self.problems[before..].iter().any(Problem::is_error)).then_some(list)
    }

    fn relays(&mut self, node: &Node, path: &str) -> Option<Vec<RelayNode>> {
        let Node::List(items) = node else {
            self.wrong_type(path, node, &Shape::Relays.expected());
            return None;
        };
        let before = self.problems.len();
        let mut relays = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            match item {
                Node::Block(entries) => relays.push(self.relay(entries, &path)),
                Node::Null => {
                    self.tell(Problem::warning(Cause::InvalidValue, path, "an empty item is left out"));
                }
                Node::Flag(_) | Node::Integer(_) | Node::Fraction(_) | Node::Text(_) | Node::List(_) => {
                    self.wrong_type(&path, item, "a block with nodeName and advertiseAddress");
                }
            }
        }
        (!self.problems[before..].iter().any(Problem::is_error)).then_some(relays)
    }

    fn relay(&mut self, entries: &[(String, Node)], path: &str) -> RelayNode {
        let mut relay = RelayNode::default();
        let mut missing = vec![
            ("nodeName", "no agent knows that it is this relay"),
            ("advertiseAddress", "no node can reach this relay"),
        ];
        for (key, node) in entries.iter().filter(|(_, node)| *node != Node::Null) {
            let at = format!("{path}.{key}");
            let is_told = match ["nodeName", "advertiseAddress"]
                .into_iter()
                .find(|known| known.eq_ignore_ascii_case(key))
            {
                Some("nodeName") => {
                    let name = self.text(node, &at, Shape::Text);
                    relay.node_name = name.clone().unwrap_or_default();
                    name.is_none_or(|name| !name.is_empty()).then_some("nodeName")
                }
                Some(_) => {
                    let addresses = self.list(Shape::RelayAddresses, node, &at);
                    relay.advertise = addresses.clone().unwrap_or_default();
                    addresses.is_none_or(|list| !list.is_empty()).then_some("advertiseAddress")
                }
                None => {
                    let text = "there is no such key; nodeName and advertiseAddress are known here";
                    self.tell(Problem::warning(Cause::UnknownKey, at, text));
                    None
                }
            };
            missing.retain(|(key, _)| Some(*key) != is_told);
        }
        for (key, consequence) in missing {
            let text = format!("{key} is missing: {consequence}");
            self.tell(Problem::warning(Cause::Incomplete, path, text));
        }
        relay
    }
}

fn fits(shape: Shape, value: &Value) -> Result<(), String> {
    match value {
        Value::Number(number) => {
            let (min, max) = match shape {
                Shape::Number(min, max) => (min, max),
                Shape::Port => (1, i64::from(u16::MAX)),
                _ => return Ok(()),
            };
            if (min..=max).contains(number) {
                Ok(())
            } else {
                Err(format!("{number} is not {}", shape.expected()))
            }
        }
        Value::Text(text) => text_fits(shape, text),
        Value::Flag(_) | Value::Fraction(_) | Value::List(_) | Value::Relays(_) | Value::Anything => Ok(()),
    }
}

fn text_fits(shape: Shape, text: &str) -> Result<(), String> {
    let fits = match shape {
        Shape::OneOf(words) => words.contains(&text),
        Shape::File => !text.is_empty() && !text.contains('\0'),
        Shape::AbsolutePath => (text.is_empty() || text.starts_with('/')) && !text.contains('\0'),
        Shape::Url => text.is_empty() || is_url(text),
        Shape::Ip => {
            text.parse::<std::net::IpAddr>().is_ok_and(|ip| !ip.is_unspecified() && !ip.is_multicast())
        }
        Shape::Listen => text == "off" || text.parse::<std::net::SocketAddr>().is_ok(),
        Shape::Interfaces => address::comma_list(text).into_iter().all(is_device),
        Shape::Nets => address::comma_list(text).into_iter().all(|item| address::net(item).is_some()),
        Shape::Domain => address::is_dns_name(text.strip_suffix('.').unwrap_or(text)),
        Shape::LogLevel => is_log_level(text),
        Shape::Device => is_device(text),
        _ => true,
    };
    if fits { Ok(()) } else { Err(format!("{} is not {}", excerpt(text), shape.expected())) }
}

fn item_fits(shape: Shape, text: &str) -> Result<(), String> {
    let (fits, expected) = match shape {
        Shape::Addresses => {
            (address::socket_addr(text, 1).is_some(), "an IP address, IP:PORT or [IPv6]:PORT")
        }
        Shape::Cidrs => (text.parse::<ipnet::IpNet>().is_ok(), "a CIDR block such as 10.244.0.0/16"),
        Shape::RelayAddresses => (
            address::relay(text, 1).is_some(),
            "an IP address, IP:PORT, [IPv6]:PORT, a host name or a multiaddr such as /ip4/192.0.2.1/tcp/20006",
        ),
        _ => (true, ""),
    };
    if fits { Ok(()) } else { Err(format!("{} is not {expected}", excerpt(text))) }
}

fn is_url(text: &str) -> bool {
    let rest = match text.split_once("://") {
        Some(("http" | "https", rest)) => rest,
        Some(_) => return false,
        None => text,
    };
    let host = rest.split('/').next().unwrap_or_default();
    !host.is_empty()
        && !host.starts_with(':')
        && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// The kernel's IFNAMSIZ is 16 with the final zero.
fn is_device(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && !text.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control())
}

fn is_log_level(text: &str) -> bool {
    let level = |word: &str| {
        ["off", "error", "warn", "info", "debug", "trace"]
            .iter()
            .any(|level| level.eq_ignore_ascii_case(word))
    };
    let target = |word: &str| {
        !word.is_empty()
            && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':' || c == '-')
    };
    text.split(',').map(str::trim).all(|item| match item.split_once('=') {
        Some((name, word)) => target(name) && level(word),
        None => level(item),
    })
}
