use std::fmt;

/// How much a problem matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file is used, and says something else than its writer may think.
    Warning,
    /// A key that Go EdgeMesh had and that does nothing here.
    Notice,
}

impl Severity {
    /// The log word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
        }
    }
}

/// What kind of problem it is. Each variant is a log word and a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The text is no YAML, or no block of keys.
    Syntax,
    /// The text or the number of its values is past the bound.
    TooLarge,
    /// No such key.
    UnknownKey,
    /// A key in other letter case, which Go EdgeMesh read all the same.
    LetterCase,
    /// A key of an older EdgeMesh.
    OldName,
    /// A key given twice.
    DuplicateKey,
    /// A value of another type that was taken for what it probably means.
    Coerced,
    /// A value of another type.
    WrongType,
    /// A value of the right type that cannot be used.
    InvalidValue,
    /// A block without a key that makes it useful.
    Incomplete,
    /// A key or file of the other program.
    WrongRole,
    /// `apiVersion` or `kind` is missing or unknown.
    Header,
    /// A key that does nothing.
    WithoutEffect,
    /// Keys that contradict each other.
    Conflict,
    /// What the environment should say and does not.
    Environment,
}

impl Cause {
    /// The log word and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::TooLarge => "too_large",
            Self::UnknownKey => "unknown_key",
            Self::LetterCase => "letter_case",
            Self::OldName => "old_name",
            Self::DuplicateKey => "duplicate_key",
            Self::Coerced => "coerced",
            Self::WrongType => "wrong_type",
            Self::InvalidValue => "invalid_value",
            Self::Incomplete => "incomplete",
            Self::WrongRole => "wrong_role",
            Self::Header => "header",
            Self::WithoutEffect => "without_effect",
            Self::Conflict => "conflict",
            Self::Environment => "environment",
        }
    }
}

/// One thing that a file or the environment should say otherwise, with the fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How much it matters.
    pub severity: Severity,
    /// What kind of problem it is.
    pub cause: Cause,
    /// The key as the file spells it, or the variable of the environment; empty for the file as a whole.
    pub path: String,
    /// The line of the file, where it is known.
    pub line: Option<usize>,
    /// What is wrong and what to do.
    pub text: String,
}

impl Problem {
    pub(crate) fn error(cause: Cause, path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { severity: Severity::Error, cause, path: path.into(), line: None, text: text.into() }
    }

    pub(crate) fn warning(cause: Cause, path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(cause, path, text) }
    }

    pub(crate) fn notice(cause: Cause, path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { severity: Severity::Notice, ..Self::error(cause, path, text) }
    }

    pub(crate) fn at(self, line: Option<usize>) -> Self {
        Self { line, ..self }
    }

    /// Whether the file cannot be used because of it.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// The key and the text, without the line.
    pub(crate) fn without_line(&self) -> String {
        if self.path.is_empty() { self.text.clone() } else { format!("{}: {}", self.path, self.text) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        f.write_str(&self.without_line())
    }
}

impl std::error::Error for Problem {}
