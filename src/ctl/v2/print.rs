//! What a change or a read looks like: simple, extended, json. Source: etcd 3.4 `etcdctl/ctlv2/command/format.go`.

use super::Outcome;
use super::World;
use super::store::Response;

impl World<'_> {
    /// Prints an answer in the format of `--output`.
    pub(super) fn print(&mut self, response: &Response) -> Outcome {
        let is_delete = response.action == "delete";
        let previous = response.prev.as_ref().map(|prev| prev.value.as_str());
        match self.output() {
            "simple" if is_delete => writeln!(self.out, "PrevNode.Value: {}", previous.unwrap_or_default())?,
            "simple" => writeln!(self.out, "{}", response.node.value)?,
            "extended" => {
                let node = &response.node;
                writeln!(self.out, "Key: {}", node.key)?;
                writeln!(self.out, "Created-Index: {}", node.created)?;
                writeln!(self.out, "Modified-Index: {}", node.modified)?;
                if let Some(previous) = previous {
                    writeln!(self.out, "PrevNode.Value: {previous}")?;
                }
                writeln!(self.out, "TTL: {}", node.ttl)?;
                writeln!(self.out, "Index: {}", response.index)?;
                if !is_delete {
                    writeln!(self.out, "\n{}", node.value)?;
                }
            }
            "json" => {
                // Go's encoder writes what could be taken for HTML as numbers.
                let text = serde_json::to_string(response).unwrap_or_default();
                let text = text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
                writeln!(self.out, "{text}")?;
            }
            other => {
                let other = other.to_owned();
                writeln!(self.err, "Unsupported output format: {other}")?;
            }
        }
        Ok(self.out.flush()?)
    }
}
