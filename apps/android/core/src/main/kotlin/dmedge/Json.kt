// SPDX-License-Identifier: Apache-2.0
package dmedge

/** A file is missing, was changed, or is not what this code reads. */
class BundleException(message: String) : Exception(message)

private val TOKEN = Regex("\"[^\"\\\\]*+(?:\\\\.[^\"\\\\]*+)*+\"|[\\[\\]{}:,]|[^\\s\\[\\]{}:,\"]++")
private val ESCAPE = Regex("\\\\(?:u([0-9a-fA-F]{4})|(.))")
private val MEANINGS = mapOf("b" to "\b", "f" to "\u000C", "n" to "\n", "r" to "\r", "t" to "\t")

/**
 * JSON as Map, List, String, Double, Boolean and null. This module depends on nothing, so that any JVM runs it.
 *
 * @throws BundleException where it is not JSON
 */
fun parseJson(text: String): Any? = JsonReader(text).value()

/** A JSON object. */
@Suppress("UNCHECKED_CAST")
fun Any?.asObject(): Map<String, Any?> = this as? Map<String, Any?> ?: throw BundleException("$this; expected an object")

/** A JSON array. */
fun Any?.asList(): List<Any?> = this as? List<Any?> ?: throw BundleException("$this; expected a list")

/** A JSON number that is whole. */
fun Any?.asInt(): Int = (this as? Double)?.toInt() ?: throw BundleException("$this; expected a number")

private class JsonReader(text: String) {
    private val tokens = TOKEN.findAll(text).map { it.value }.iterator()

    private fun next() = if (tokens.hasNext()) tokens.next() else throw BundleException("JSON ends too early")

    fun value(token: String = next()): Any? = when {
        token == "{" -> members()
        token == "[" -> elements()
        token[0] == '"' -> unquoted(token)
        token == "true" || token == "false" -> token == "true"
        token == "null" -> null
        else -> token.toDoubleOrNull() ?: throw BundleException("$token is not JSON")
    }

    private fun members(): Map<String, Any?> {
        val found = LinkedHashMap<String, Any?>()
        var token = next()
        while (token != "}") {
            if (next() != ":") throw BundleException("JSON lacks a colon after $token")
            found[unquoted(token)] = value()
            token = next()
            if (token == ",") token = next()
        }
        return found
    }

    private fun elements(): List<Any?> {
        val found = ArrayList<Any?>()
        var token = next()
        while (token != "]") {
            found.add(value(token))
            token = next()
            if (token == ",") token = next()
        }
        return found
    }

    private fun unquoted(token: String) = ESCAPE.replace(token.substring(1, token.length - 1)) {
        val (code, letter) = it.destructured
        if (code.isNotEmpty()) code.toInt(16).toChar().toString() else MEANINGS[letter] ?: letter
    }
}
