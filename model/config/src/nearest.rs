use crate::settings::Role;
use crate::table;

/// Keys are at most 25 letters; what is longer than this is no misspelt key.
const MAX_LETTERS: usize = 40;

/// The key that was probably meant, with its blocks.
pub(crate) fn nearest(block: &str, name: &str, role: Role) -> Option<String> {
    let wanted = plain(name);
    if wanted.is_empty() || wanted.len() > MAX_LETTERS {
        return None;
    }
    let near = table::children(block, role)
        .into_iter()
        .filter_map(|known| Some((distance_to(&wanted, &plain(known))?, known)))
        .min_by_key(|(distance, _)| *distance);
    if let Some((_, known)) = near {
        return Some(join(block, known));
    }
    elsewhere(&wanted, role)
}

/// A key or block of this name in another block.
fn elsewhere(wanted: &[char], role: Role) -> Option<String> {
    for field in table::fields_of(role) {
        let mut end = 0;
        for part in field.path.split('.') {
            end += part.len();
            if plain(part) == wanted {
                return Some(field.path[..end].to_owned());
            }
            end += 1;
        }
    }
    None
}

pub(crate) fn join(block: &str, key: &str) -> String {
    if block.is_empty() { key.to_owned() } else { format!("{block}.{key}") }
}

fn plain(text: &str) -> Vec<char> {
    text.chars().filter(|c| !"-_ ".contains(*c)).map(|c| c.to_ascii_lowercase()).collect()
}

/// How many letters differ, if that is few enough for the same word.
fn distance_to(wanted: &[char], known: &[char]) -> Option<usize> {
    let (short, long) = if wanted.len() < known.len() { (wanted, known) } else { (known, wanted) };
    // Four letters are the shortest that do not begin half of the table by accident.
    if short.len() >= 4 && long.starts_with(short) {
        return Some(1);
    }
    let allowed = (long.len() / 3).max(1);
    let distance = distance(wanted, known);
    (distance <= allowed).then_some(distance)
}

/// Letters to put in, take out, replace or swap with their neighbour (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let mut least = (rows[i - 1][j] + 1)
                    .min(rows[i][j - 1] + 1)
                    .min(rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]));
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}
