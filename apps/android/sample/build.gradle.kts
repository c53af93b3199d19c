plugins {
    id("com.android.application")
}

android {
    namespace = "dmedge.sample"
    compileSdk = 36
    defaultConfig {
        applicationId = "dmedge.sample"
        minSdk = 26
        targetSdk = 36
        ndk {
            abiFilters += listOf("arm64-v8a", "x86_64")
        }
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
}

dependencies {
    implementation(project(":model"))
}
