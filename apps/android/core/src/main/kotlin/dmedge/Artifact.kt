// SPDX-License-Identifier: Apache-2.0
package dmedge

import java.io.File
import java.security.MessageDigest

private const val SCHEMA = 1 // of manifest.json
private val OWN_DIGEST = Regex("(?m)^ {2}\"digest\": \"([0-9a-f]{64})\",\n")

/**
 * A bundle or an index on the disk, whose files are handed out only if their sha256 is the manifest's.
 *
 * @throws BundleException the manifest is missing, was changed, or is of another kind or schema
 */
class Artifact(val root: File, kind: String) {
    /** sha256 of the canonical manifest, and through it of every file. */
    val digest: String
    val manifest: Map<String, Any?>

    init {
        val text = String(read("manifest.json"), Charsets.UTF_8)
        manifest = parseJson(text).asObject()
        if (manifest["kind"] != kind || manifest["schema_version"].asInt() != SCHEMA) {
            throw BundleException("$root: found ${manifest["kind"]}; expected $kind of schema $SCHEMA")
        }
        digest = manifestDigest(text)
        if (digest != manifest["digest"]) throw BundleException("$root: manifest.json was changed; deploy it again")
    }

    /** Files that the manifest names. */
    val names: Set<String> get() = manifest["files"].asObject().keys

    /** The few facts that a reader wants first. */
    val summary: Map<String, Any?> get() = manifest["summary"].asObject()

    /**
     * Bytes of one file.
     *
     * @throws BundleException it is missing, is not named, or was changed
     */
    fun bytes(name: String): ByteArray {
        val want = manifest["files"].asObject()[name] ?: throw BundleException("$root: has no file $name")
        val content = read(name)
        val found = sha256(content)
        val expected = want.asObject()["sha256"] as String
        if (found != expected) {
            val (got, wanted) = found.take(12) to expected.take(12)
            throw BundleException("$name: sha256 $got differs from the manifest's $wanted; deploy it again")
        }
        return content
    }

    fun json(name: String): Any? = parseJson(String(bytes(name), Charsets.UTF_8))

    /** Check every file once, for instance after unpacking. */
    fun checkAll() = names.forEach { bytes(it) }

    private fun read(name: String): ByteArray {
        val file = File(root, name)
        if (!file.isFile) throw BundleException("$file: missing; expected the files of a bundle; deploy it again")
        return file.readBytes()
    }
}

/**
 * Digest of a manifest: the sha256 of its text without its own digest and without spaces between the values.
 *
 * dmedge writes manifests sorted and indented, so the canonical form is this text; numbers need not be written anew.
 */
fun manifestDigest(text: String): String {
    val canonical = StringBuilder(text.length)
    var isQuoted = false
    var isEscaped = false
    for (letter in OWN_DIGEST.replaceFirst(text, "")) {
        if (isQuoted || letter !in " \n") canonical.append(letter)
        if (letter == '"' && !isEscaped) isQuoted = !isQuoted
        isEscaped = isQuoted && letter == '\\' && !isEscaped
    }
    return sha256(canonical.toString().toByteArray(Charsets.UTF_8))
}

fun sha256(content: ByteArray): String =
    MessageDigest.getInstance("SHA-256").digest(content).joinToString("") { "%02x".format(it) }
