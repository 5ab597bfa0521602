use millrace_drivers::modbus::{Address, DataType, WordOrder};

/// Addresses, types and orders as people write them: whatever is understood says the same when it is written again, and
/// whatever is not has a hint.
pub fn address(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match text.parse::<Address>() {
        Ok(address) => {
            let written = address.to_string();
            assert_eq!(written.parse(), Ok(address), "{text:?} is {written:?}");
        }
        Err(error) => assert!(!error.hint().is_empty(), "{error}"),
    }
    match text.parse::<DataType>() {
        Ok(data_type) => {
            let written = data_type.to_string();
            assert_eq!(written.parse(), Ok(data_type), "{text:?} is {written:?}");
        }
        Err(error) => assert!(!error.hint().is_empty(), "{error}"),
    }
    match text.parse::<WordOrder>() {
        Ok(order) => assert_eq!(order.to_string().parse(), Ok(order), "{text:?}"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
