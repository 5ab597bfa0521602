//! Configuration for a simulated device, ready to paste.

use std::fmt::Write;

use super::map::RegisterMap;

/// A `[[device]]` table with every tag of the map.
pub fn print_tags_toml(map: &RegisterMap, device: &str, address: &str) -> String {
    let mut text = format!(
        "[[device]]\nname = {device:?}\ndriver = \"modbus-tcp\"\naddress = {address:?}\nunit_id = 1\n"
    );
    for entry in map.entries() {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n[[device.tag]]\nname = {:?}\naddress = \"{}\"\ntype = \"{}\"\norder = \"{}\"\n",
            &*entry.name,
            entry.spec.address(),
            entry.spec.data_type(),
            entry.spec.order()
        );
    }
    text
}

/// The tags of the map as a `tags_file`.
pub fn print_tags_csv(map: &RegisterMap) -> String {
    let mut text = "name,address,type,order\n".to_owned();
    for entry in map.entries() {
        let _ = writeln!(
            text,
            "{},{},{},{}",
            csv_field(&entry.name),
            entry.spec.address(),
            entry.spec.data_type(),
            entry.spec.order()
        );
    }
    text
}

fn csv_field(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}
