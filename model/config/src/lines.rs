use std::collections::BTreeMap;

/// On which lines the keys of a file stand.
///
/// The YAML parser tells no places of values, so they are found by indentation. That covers the block style that
/// configuration files are written in; what it does not see has no line, and its block's line is told instead.
#[derive(Debug, Default)]
pub(crate) struct Lines(BTreeMap<String, Vec<usize>>);

impl Lines {
    pub(crate) fn of(text: &str) -> Self {
        let mut scanner = Scanner::default();
        for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            if !scanner.line(number + 1, line) {
                break;
            }
        }
        Self(scanner.found)
    }

    /// The line of a key, or else of the block around it.
    pub(crate) fn of_key(&self, path: &str) -> Option<usize> {
        let mut path = path;
        loop {
            if let Some(lines) = self.0.get(path) {
                return lines.last().copied();
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }

    /// All lines of a key that is given more than once.
    pub(crate) fn all(&self, path: &str) -> &[usize] {
        self.0.get(path).map_or(&[], Vec::as_slice)
    }
}

#[derive(Default)]
struct Scanner {
    found: BTreeMap<String, Vec<usize>>,
    open: Vec<(usize, Step)>,
    /// What the lines until its end belong to.
    inside: Option<Inside>,
}

enum Step {
    Key(String),
    Item(usize),
}

enum Inside {
    /// A block scalar: lines that are indented deeper.
    Scalar(usize),
    /// A flow collection with so many open brackets.
    Flow(i64),
    /// Text in these quotes.
    Quotes(char),
}

impl Scanner {
    /// Takes in a line; false when the first document has ended.
    fn line(&mut self, number: usize, line: &str) -> bool {
        let content = line.trim_start_matches(' ');
        let mut indent = line.len() - content.len();
        if self.is_inside(indent, content) {
            return true;
        }
        if content.starts_with("---") || content.starts_with("...") {
            return self.found.is_empty();
        }
        let mut rest = content;
        if rest.is_empty() || rest.starts_with('#') {
            return true;
        }
        while rest == "-" || rest.starts_with("- ") {
            self.item(indent, number);
            let next = rest[1..].trim_start_matches(' ');
            indent += rest.len() - next.len();
            rest = next;
        }
        if let Some((key, value)) = split_key(rest) {
            while self.open.last().is_some_and(|(column, _)| *column >= indent) {
                self.open.pop();
            }
            self.open.push((indent, Step::Key(key.to_owned())));
            self.note(number);
            rest = value;
        }
        self.inside = opened(rest, indent);
        true
    }

    fn is_inside(&mut self, indent: usize, content: &str) -> bool {
        match &mut self.inside {
            None => return false,
            Some(Inside::Scalar(column)) => {
                if content.is_empty() || indent > *column {
                    return true;
                }
                self.inside = None;
                return false;
            }
            Some(Inside::Flow(depth)) => {
                *depth += brackets(content);
                if *depth > 0 {
                    return true;
                }
            }
            Some(Inside::Quotes(quote)) => {
                if !content.contains(*quote) {
                    return true;
                }
            }
        }
        self.inside = None;
        true
    }

    fn item(&mut self, indent: usize, number: usize) {
        let mut index = 0;
        while let Some((column, step)) = self.open.last() {
            match step {
                Step::Item(last) if *column == indent => index = last + 1,
                _ if *column <= indent => break,
                _ => {}
            }
            self.open.pop();
        }
        self.open.push((indent, Step::Item(index)));
        self.note(number);
    }

    fn note(&mut self, number: usize) {
        let mut path = String::new();
        for (_, step) in &self.open {
            match step {
                Step::Key(key) if path.is_empty() => path.push_str(key),
                Step::Key(key) => path.extend([".", key]),
                Step::Item(index) => path.push_str(&format!("[{index}]")),
            }
        }
        self.found.entry(path).or_default().push(number);
    }
}

fn split_key(text: &str) -> Option<(&str, &str)> {
    let (key, rest) = match text.chars().next()? {
        quote @ ('"' | '\'') => {
            let (key, rest) = text[1..].split_once(quote)?;
            (key, rest.trim_start().strip_prefix(':')?)
        }
        '{' | '[' | '&' | '*' | '!' | '|' | '>' | '%' | '@' | '`' | '?' => return None,
        _ => match text.split_once(": ") {
            Some((key, rest)) => (key, rest),
            None => (text.split(" #").next()?.trim_end().strip_suffix(':')?, ""),
        },
    };
    (!key.contains(" #")).then(|| (key.trim_end(), rest.trim()))
}

/// What the text after a key opens and does not close on its line.
fn opened(value: &str, indent: usize) -> Option<Inside> {
    match value.chars().next()? {
        '|' | '>' => Some(Inside::Scalar(indent)),
        '{' | '[' => Some(brackets(value)).filter(|depth| *depth > 0).map(Inside::Flow),
        quote @ ('"' | '\'') => (!value[1..].contains(quote)).then_some(Inside::Quotes(quote)),
        _ => None,
    }
}

fn brackets(text: &str) -> i64 {
    text.chars().fold(0, |depth, c| match c {
        '{' | '[' => depth + 1,
        '}' | ']' => depth - 1,
        _ => depth,
    })
}
